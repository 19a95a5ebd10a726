// Draws the charts of one benchmark with Plotly from the numbers in the page; `isOn` tells which strategies are shown.
"use strict";

const ongCharts = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads a few tags
  const faded = (colour, share) => colour + Math.round(255 * share).toString(16).padStart(2, "0");

  function look(strategy) {
    const colour = strategy.reference ? css("--ink") : css(`--line-${strategy.colour}`);
    return {
      line: { color: colour, width: 2, dash: strategy.dash },
      marker: { color: colour, size: 7, symbol: strategy.symbol, line: { color: colour, width: 1.5 } },
    };
  }

  function trace(strategy, on, more) {
    return {
      type: "scatter", name: plain(strategy.label), meta: strategy.name, legendgroup: strategy.name,
      visible: on ? true : "legendonly", ...look(strategy), ...more,
    };
  }

  const within = (half) => half.map((h) => (h === null ? "" : ` ± ${h.toFixed(3)}`));

  function band(strategy, x, mean, half, on) {
    const edge = (sign) => mean.map((m, i) => (m === null || half[i] === null ? null : m + sign * half[i]));
    return {
      type: "scatter", mode: "lines", x: [...x, ...[...x].reverse()], y: [...edge(1), ...edge(-1).reverse()],
      fill: "toself", fillcolor: faded(look(strategy).line.color, 0.15), line: { width: 0 }, hoverinfo: "skip",
      showlegend: false, meta: strategy.name, legendgroup: strategy.name, visible: on,
    };
  }

  function levels(data, isOn, from, to) {
    return data.strategies.filter((s) => data.levels[s.name]).map((s) => {
      const [acc, half] = data.levels[s.name];
      return trace(s, isOn(s.name), {
        mode: "lines", x: [from, to], y: [acc, acc], customdata: [within([half])[0], within([half])[0]],
        hovertemplate: `${plain(s.label)}<br>ACC %{y:.3f}%{customdata}<extra></extra>`,
      });
    });
  }

  const count = (n) => Array.from({ length: n }, (_, i) => i);
  const kinds = {
    curves(data, isOn) {
      const x = count(data.tasks).map((t) => t + 1);
      const lines = data.strategies.filter((s) => data.curves[s.name]).flatMap((s) => {
        const { mean, half } = data.curves[s.name];
        const on = isOn(s.name);
        const line = trace(s, on, {
          mode: "lines+markers", x, y: mean, customdata: within(half),
          hovertemplate: `${plain(s.label)}<br>%{x} tasks seen: %{y:.3f}%{customdata}<extra></extra>`,
        });
        return half.some((h) => h !== null) ? [band(s, x, mean, half, on), line] : [line];
      });
      return { traces: [...levels(data, isOn, 1, data.tasks), ...lines], x: "tasks seen", y: "average accuracy", whole: true };
    },

    cost(data, isOn, name) {
      const { title, points } = data.costs[name];
      const found = data.strategies.filter((s) => points[s.name]);
      const values = found.map((s) => points[s.name][0]);
      const cost = (value) => (name === "memory_bytes" ? bytes(value) : `${Number(value.toPrecision(3))} s`);
      const families = new Map();
      for (const s of found) families.set(s.family, [...(families.get(s.family) || []), s]);
      const joins = name !== "memory_bytes" ? [] : [...families.values()].filter((f) => f.length > 1).map((family) => {
        const shown = family.filter((s) => isOn(s.name)).sort((a, b) => points[a.name][0] - points[b.name][0]);
        return {
          type: "scatter", mode: "lines", x: shown.map((s) => points[s.name][0]), y: shown.map((s) => points[s.name][1]),
          line: { ...look(family[0]).line, dash: "solid", width: 1.5 }, hoverinfo: "skip", showlegend: false,
        };
      });
      const marks = found.map((s) => {
        const [x, acc, half] = points[s.name];
        const style = look(s);
        return trace(s, isOn(s.name), {
          mode: "markers", x: [x], y: [acc], customdata: within([half]), marker: { ...style.marker, size: 9 },
          error_y: { type: "data", array: [half || 0], color: style.line.color, thickness: 1.2, width: 3 },
          hovertemplate: `${plain(s.label)}<br>${cost(x)}: ACC %{y:.3f}%{customdata}<extra></extra>`,
        });
      });
      const ends = [Math.min(...values) / 1.15, Math.max(...values) * 1.15];
      const write = name === "memory_bytes" ? bytes : String;
      return { traces: [...levels(data, isOn, ...ends), ...joins, ...marks], x: title, y: "ACC", logX: write };
    },

    change(data, isOn) {
      const x = count(data.tasks - 1); // the last task has nothing after it to be forgotten by
      const traces = data.strategies.filter((s) => data.change[s.name]).map((s) => trace(s, isOn(s.name), {
        mode: "lines+markers", x, y: data.change[s.name].slice(0, -1),
        hovertemplate: `${plain(s.label)}<br>task %{x}: %{y:.3f} lost<extra></extra>`,
      }));
      return { traces, x: "task", y: "R[j, j] − R[T−1, j]", whole: true };
    },

    diagnostic(data, isOn, key) {
      const found = data.diagnostics.find((d) => d.key === key);
      const traces = data.strategies.filter((s) => found.lines[s.name]).map((s) => {
        const { x, y } = found.lines[s.name];
        return trace(s, isOn(s.name), {
          mode: x.length > data.tasks ? "lines" : "lines+markers", x, y,
          hovertemplate: `${plain(s.label)}<br>after %{x:.2~f} tasks: %{y:.4~g}<extra></extra>`,
        });
      });
      return { traces, x: "tasks trained", y: found.title, logY: found.log };
    },

    certificate(data, isOn, place) {
      const { lines } = data.certificates[Number(place)];
      const x = count(data.tasks).map((t) => t + 1);
      const parts = [["promised", "dash", "lines"], ["beyond", "dot", "lines"], ["measured", "solid", "lines+markers"]];
      const traces = data.strategies.filter((s) => lines[s.name]).flatMap((s) => parts
        .filter(([part]) => lines[s.name][part].length)
        .map(([part, dash, mode]) => trace(s, isOn(s.name), {
          mode, x, y: lines[s.name][part], showlegend: part === "measured", line: { ...look(s).line, dash },
          hovertemplate: `${plain(s.label)}, ${part === "beyond" ? "beyond first order" : part}<br>task %{x}: %{y:.3~g}<extra></extra>`,
        })));
      return { traces, x: "tasks seen", y: "mean squared change", logY: true };
    },
  };

  function bytes(value) {
    const [size, unit] = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]].find(([s]) => value >= s) || [1, "B"];
    return `${Number((value / size).toPrecision(3))} ${unit}`;
  }

  // One, two and five of each decade, or the decades alone where there are many, written out.
  function logTicks(traces, part, write) {
    const values = traces.flatMap((t) => t[part]).filter((v) => v !== null && v > 0);
    if (!values.length) return {};
    const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
    const factors = high - low > 2.5 ? [1] : high - low > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
    const decades = count(Math.ceil(high) - Math.floor(low) + 1).map((i) => i + Math.floor(low));
    const tickvals = decades.flatMap((d) => factors.map((f) => Number(`${f}e${d}`)));
    return { type: "log", tickmode: "array", tickvals, ticktext: tickvals.map(write) };
  }

  const scientific = (value) => (value >= 1e-3 && value < 1e4 ? String(value) : value.toExponential(0).replace("e+", "e").replace("-", "−"));

  function draw(element, data, isOn, width) {
    const { traces, x, y, logX, logY, whole } = kinds[element.dataset.chart](data, isOn, element.dataset.of);
    const wide = (width || element.clientWidth) > 620;
    const axis = {
      gridcolor: css("--rule"), zerolinecolor: css("--rule"), linecolor: css("--rule"), automargin: true, fixedrange: !wide,
    };
    const rows = Math.ceil(data.strategies.length / 2);
    const layout = {
      font: { family: css("--font"), size: 13, color: css("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--soft"), font: { color: css("--ink") }, align: "left" },
      margin: { l: 48, r: 12, t: 12, b: 44 }, height: wide ? Math.max(420, 70 + 21 * data.strategies.length) : 320 + 22 * rows, ...(width ? { width } : {}),
      xaxis: { ...axis, title: { text: x }, ...(logX ? logTicks(traces, "x", logX) : {}), showgrid: false },
      yaxis: { ...axis, title: { text: y }, ...(logY ? logTicks(traces, "y", scientific) : {}) },
      legend: wide ? { x: 1.02, y: 1, tracegroupgap: 0 } : { orientation: "h", font: { size: 11 }, x: 0, y: -0.22, tracegroupgap: 0, entrywidth: 0.48, entrywidthmode: "fraction" },
      showlegend: true,
    };
    if (whole && data.tasks < 25) layout.xaxis.dtick = data.tasks <= 12 ? 1 : 2;
    const config = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset" };
    return Plotly.react(element, traces, layout, config);
  }

  return { draw };
})();

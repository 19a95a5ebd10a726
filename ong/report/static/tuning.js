// Draws the charts of searches with Plotly from the numbers in the page.
"use strict";

(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads a few tags
  const short = (value) => (typeof value === "number" ? Number(value.toPrecision(3)) : plain(value));
  const point = (t) => Object.entries(t.values).map(([key, value]) => `${plain(key)} = ${short(value)}`).join("<br>");
  const better = (study, a, b) => (b === null ? a : a === null ? b : (study.better === "higher" ? Math.max : Math.min)(a, b));

  function bestSoFar(study) {
    let best = null;
    return study.trials.map((t) => (best = better(study, best, t.score)));
  }

  const bestOf = (study) => bestSoFar(study).at(-1) ?? null;

  // Where trials without a score are drawn: below all others.
  function foot(study) {
    const scores = study.trials.map((t) => t.score).filter((s) => s !== null);
    if (!scores.length) return 0;
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    return low - 0.08 * (high - low || 1);
  }

  function marks(study, colour, x) {
    const bottom = foot(study);
    return {
      type: "scatter", mode: "markers", x, y: study.trials.map((t) => t.score ?? bottom), customdata: study.trials.map((t) =>
        `trial ${t.number}: ${t.score === null ? t.state : `${study.metric} ${t.score.toFixed(4)}`}<br>${point(t)}`),
      hovertemplate: "%{customdata}<extra></extra>", showlegend: false,
      marker: {
        size: 9, color: colour,
        symbol: study.trials.map((t) => ({ done: "circle", pruned: "circle-open", stopped: "x" })[t.state]),
      },
    };
  }

  // The scores that are as good as the best.
  function band(study) {
    const best = bestOf(study);
    if (best === null) return [];
    const other = study.better === "higher" ? best - study.near : best + study.near;
    return [{
      type: "rect", xref: "paper", x0: 0, x1: 1, y0: best, y1: other, line: { width: 0 }, fillcolor: css("--accent"),
      opacity: 0.2, layer: "below",
    }];
  }

  const kinds = {
    race(studies) {
      const traces = studies.map((s) => ({
        type: "scatter", mode: "lines+markers", name: plain(s.name), x: s.trials.map((t) => t.number), y: bestSoFar(s),
        line: { color: css(`--line-${s.colour}`), dash: s.dash, width: 2, shape: "hv" }, marker: { size: 6 },
        hovertemplate: `${plain(s.name)}<br>after trial %{x}: %{y:.4f}<extra></extra>`,
      }));
      return { traces, x: "trial", y: `best ${studies[0].metric} so far`, legend: true, height: 380 };
    },

    history(studies, place) {
      const s = studies[place];
      const x = s.trials.map((t) => t.number);
      const line = {
        type: "scatter", mode: "lines", x, y: bestSoFar(s), line: { color: css("--soft"), width: 1.5, shape: "hv" },
        hovertemplate: "best so far: %{y:.4f}<extra></extra>", showlegend: false,
      };
      return { traces: [line, marks(s, css(`--line-${s.colour}`), x)], x: "trial", y: s.metric, shapes: band(s), height: 300 };
    },

    slice(studies, place, key) {
      const s = studies[place];
      const { given, searched } = s.keys.find((k) => k.key === key);
      const shades = s.trials.map((t) => 0.35 + 0.65 * ((t.number + 1) / s.trials.length));
      const trace = marks(s, css(`--line-${s.colour}`), s.trials.map((t) => t.values[key]));
      trace.marker.opacity = shades;
      const shapes = band(s);
      const found = { traces: [trace], x: plain(key), y: s.metric, shapes, height: 270 };
      if (given.choices) {
        trace.x = trace.x.map(String);
        return { ...found, xaxis: { type: "category", categoryorder: "array", categoryarray: given.choices.map(String) } };
      }
      for (const end of [given.low, given.high]) {
        shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: end, x1: end, line: { color: css("--soft"), width: 1, dash: "dot" } });
      }
      if (!searched.log) return found;
      const decades = Array.from({ length: 41 }, (_, i) => i - 20);
      const spread = Math.log10(searched.high / searched.low);
      const factors = spread > 2.5 ? [1] : spread > 1 ? [1, 3] : [1, 2, 5];
      const tickvals = decades.flatMap((d) => factors.map((f) => Number(`${f}e${d}`)));
      return { ...found, xaxis: { type: "log", tickmode: "array", tickvals, ticktext: tickvals.map((v) => String(v)) } };
    },
  };

  function draw(element, studies, width) {
    const { chart, of, key } = element.dataset;
    const { traces, x, y, shapes, legend, height, xaxis } = kinds[chart](studies, Number(of), key);
    const wide = (width || element.clientWidth) > 620;
    const axis = {
      gridcolor: css("--rule"), zerolinecolor: css("--rule"), linecolor: css("--rule"), automargin: true, fixedrange: !wide,
    };
    const layout = {
      font: { family: css("--font"), size: 13, color: css("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--soft"), font: { color: css("--ink") }, align: "left" },
      margin: { l: 52, r: 12, t: 10, b: 44 }, height, ...(width ? { width } : {}), shapes: shapes || [],
      xaxis: { ...axis, title: { text: x }, ...(x === "trial" ? { tickformat: "d" } : {}), ...xaxis },
      yaxis: { ...axis, title: { text: y } },
      showlegend: Boolean(legend), legend: wide ? {} : { orientation: "h", x: 0, y: -0.22 },
    };
    return Plotly.react(element, traces, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  const places = [...document.querySelectorAll("article")].flatMap((article) => {
    const studies = JSON.parse(document.getElementById(`${article.id}-data`).textContent);
    return [...article.querySelectorAll("[data-chart]")].map((element) => [element, studies]);
  });
  // A chart is drawn when it comes near the window: many at once take seconds.
  const near = new Set();
  const observer = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    if (!isIntersecting || near.has(target)) return;
    near.add(target);
    draw(target, places.find(([element]) => element === target)[1]);
    target.classList.add("connected");
  }), { rootMargin: "400px" });
  places.forEach(([element]) => observer.observe(element));
  const redraw = () => places.filter(([element]) => near.has(element)).forEach(([element, studies]) => draw(element, studies));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    document.querySelectorAll("details.card").forEach((card) => (card.open = true));
    places.forEach(([element, studies]) => draw(element, studies, element.dataset.chart === "slice" ? 330 : 680));
  });
  window.addEventListener("afterprint", () => {
    delete document.documentElement.dataset.theme;
    redraw();
  });
})();

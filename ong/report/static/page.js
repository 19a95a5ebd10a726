// The table sorts, filters and groups, and the charts follow; what is chosen is kept in the address after "#?".
"use strict";

(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const benchmarks = [...document.querySelectorAll("article[data-benchmark]")].map(connect);
  readAddress();
  benchmarks.forEach((b) => b.update());

  function connect(article) {
    const id = article.id;
    const data = JSON.parse(document.getElementById(`${id}-data`).textContent);
    const table = article.querySelector("table.summary");
    const form = article.querySelector("form.controls");
    const rows = [...table.tBodies[0].rows];
    const boxes = (name) => [...form.querySelectorAll(`input[name=${name}]`)];
    const usual = boxes("column").filter((box) => box.checked).map((box) => box.value);
    const sorted = { key: "", down: true };

    const off = (name) => boxes(name).filter((box) => !box.checked).map((box) => box.value);
    const lacksNothing = (row) => {
      const needs = JSON.parse(row.dataset.needs);
      const hidden = off("need");
      return needs.length ? !needs.some((need) => hidden.includes(need)) : !hidden.includes("");
    };
    const isOn = (name) => {
      const row = rows.find((r) => r.dataset.strategy === name);
      return !off("strategy").includes(name) && lacksNothing(row);
    };

    function toggle(name) {
      const box = boxes("strategy").find((b) => b.value === name);
      const row = rows.find((r) => r.dataset.strategy === name);
      box.checked = !isOn(name);
      if (box.checked && !lacksNothing(row)) boxes("need").forEach((b) => (b.checked = true));
      update();
    }

    function only(name) {
      const alone = boxes("strategy").every((box) => box.checked === (box.value === name));
      boxes("strategy").forEach((box) => (box.checked = alone || box.value === name));
      update();
    }

    const cell = (row, key) => row.querySelector(`[data-key="${CSS.escape(key)}"]`);
    const value = (row, key) => (cell(row, key).dataset.value === "" ? null : Number(cell(row, key).dataset.value));

    function inOrder() {
      if (!sorted.key) return rows;
      const name = (row) => row.dataset.label;
      return [...rows].sort((a, b) => {
        if (sorted.key === "strategy") return (sorted.down ? 1 : -1) * name(a).localeCompare(name(b));
        const [x, y] = [value(a, sorted.key), value(b, sorted.key)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sorted.down ? y - x : x - y;
      });
    }

    function embolden(group) {
      for (const head of table.tHead.querySelectorAll("th[data-better]")) {
        const competing = group.filter((r) => !r.hidden && !("reference" in r.dataset) && value(r, head.dataset.key) !== null);
        const values = competing.map((r) => value(r, head.dataset.key));
        const best = head.dataset.better === "higher" ? Math.max(...values) : Math.min(...values);
        const written = (r) => cell(r, head.dataset.key).firstChild.textContent.trim();
        const as = competing.find((r) => value(r, head.dataset.key) === best);
        group.forEach((r) => cell(r, head.dataset.key).classList.toggle("best", competing.includes(r) && written(r) === written(as)));
      }
    }

    function layTable() {
      const body = table.tBodies[0];
      body.querySelectorAll("tr.group").forEach((row) => row.remove());
      rows.forEach((row) => (row.hidden = !isOn(row.dataset.strategy)));
      const order = inOrder();
      const grouped = form.elements.group && form.elements.group.checked;
      const groups = grouped ? JSON.parse(table.dataset.groups).map((g) => [g, order.filter((r) => r.dataset.group === g)]) : [["", order]];
      for (const [title, members] of groups) {
        if (title && members.some((r) => !r.hidden)) {
          const head = body.insertRow();
          head.className = "group";
          const th = head.appendChild(document.createElement("th"));
          th.textContent = title;
          th.colSpan = 99;
          th.scope = "rowgroup";
        }
        members.forEach((row) => body.appendChild(row));
        embolden(members);
      }
      const hidden = off("column");
      table.querySelectorAll("[data-key]").forEach((e) => (e.hidden = hidden.includes(e.dataset.key)));
      table.tHead.querySelectorAll("th[data-sort]").forEach((th) => {
        const is = th.dataset.sort === sorted.key;
        th.setAttribute("aria-sort", is ? ((th.dataset.sort === "strategy") === sorted.down ? "ascending" : "descending") : "none");
      });
    }

    // A chart is drawn when it comes near the window: many at once take seconds.
    const places = [...article.querySelectorAll("[data-chart]")];
    const near = new Set();
    const drawn = new Set();
    const observer = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
      if (!isIntersecting) return void near.delete(target);
      near.add(target);
      if (!drawn.has(target)) draw(target);
    }), { rootMargin: "400px" });

    function draw(element, width) {
      ongCharts.draw(element, data, isOn, width);
      if (!element.classList.contains("connected")) {
        element.classList.add("connected");
        element.on("plotly_legendclick", (e) => (toggle(e.data[e.curveNumber].meta), false));
        element.on("plotly_legenddoubleclick", (e) => (only(e.data[e.curveNumber].meta), false));
      }
      drawn.add(element);
    }

    function charts() {
      drawn.clear();
      near.forEach((element) => draw(element));
    }

    const print = (width) => places.forEach((element) => draw(element, width));

    function update() {
      layTable();
      article.querySelectorAll("[data-follow]").forEach((e) => (e.hidden = !isOn(e.dataset.follow)));
      charts();
      writeAddress();
    }

    function state() {
      const shown = boxes("column").filter((box) => box.checked).map((box) => box.value);
      const differs = shown.join() !== usual.join();
      return [
        ...off("strategy").map((name) => [`${id}.off`, name]),
        ...off("need").map((need) => [`${id}.without`, need]),
        ...(differs ? shown.map((key) => [`${id}.column`, key]) : []),
        ...(sorted.key ? [[`${id}.${sorted.down ? "down" : "up"}`, sorted.key]] : []),
        ...(form.elements.group && form.elements.group.checked ? [[`${id}.group`, "memory"]] : []),
        ...[...article.querySelectorAll("select.quantity")].filter((s) => s.selectedIndex).map((s) => [`${id}.show`, s.value]),
      ];
    }

    function restore(given) {
      const all = (key) => given.getAll(`${id}.${key}`);
      boxes("strategy").forEach((box) => (box.checked = !all("off").includes(box.value)));
      boxes("need").forEach((box) => (box.checked = !all("without").includes(box.value)));
      const columns = all("column").length ? all("column") : usual;
      boxes("column").forEach((box) => (box.checked = columns.includes(box.value)));
      sorted.down = !all("up").length;
      const known = [...table.tHead.querySelectorAll("th[data-sort]")].map((th) => th.dataset.sort);
      sorted.key = [...all("down"), ...all("up")].find((key) => known.includes(key)) || "";
      if (form.elements.group) form.elements.group.checked = all("group").length > 0;
      article.querySelectorAll("select.quantity").forEach((select) => {
        const wanted = all("show").find((key) => [...select.options].some((o) => o.value === key));
        select.value = wanted || select.options[0].value;
        choose(select);
      });
    }

    function choose(select) {
      const target = document.getElementById(select.dataset.chartId);
      target.dataset.of = select.value;
      document.getElementById(`${select.dataset.chartId}-about`).textContent = select.selectedOptions[0].dataset.about;
    }

    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("click", (event) => {
      const to = event.target.dataset.all;
      if (to !== undefined) {
        boxes("strategy").forEach((box) => (box.checked = to === "on"));
        if (to === "on") boxes("need").forEach((box) => (box.checked = true));
        update();
      }
    });
    table.tHead.addEventListener("click", (event) => {
      const th = event.target.closest("th[data-sort]");
      if (!th) return;
      sorted.down = sorted.key === th.dataset.sort ? !sorted.down : th.dataset.better !== "lower";
      sorted.key = th.dataset.sort;
      update();
    });
    article.querySelectorAll("select.quantity").forEach((s) => s.addEventListener("change", () => (choose(s), update())));
    places.forEach((element) => observer.observe(element));
    return { state, restore, update, charts, print };
  }

  function readAddress() {
    if (location.hash.startsWith("#?")) {
      const given = new URLSearchParams(location.hash.slice(2));
      benchmarks.forEach((b) => b.restore(given));
    }
  }

  function writeAddress() {
    const chosen = new URLSearchParams(benchmarks.flatMap((b) => b.state())).toString();
    const hash = chosen ? `#?${chosen}` : "";
    if (hash !== location.hash && (hash || location.hash.startsWith("#?"))) {
      history.replaceState(null, "", hash || location.pathname + location.search);
    }
  }

  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#?")) {
      readAddress();
      benchmarks.forEach((b) => b.update());
    }
  });
  document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault(); // the address keeps what is chosen
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  }));
  const redraw = () => benchmarks.forEach((b) => b.charts());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    document.querySelectorAll("details.card").forEach((card) => (card.open = true));
    benchmarks.forEach((b) => b.print(680));
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.theme;
    redraw();
  });
})();

// What pages do beyond plain HTML: live numbers, charts, the theme, and a few keys. Every page works without it, but stands still.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // --- theme: kept in a cookie, so that the server sends the right one with the page -------------------------------------------
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const theme = document.getElementById("theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      document.cookie = `payonce_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
      charts.forEach((chart) => chart.draw());
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.draw()));

  // --- keys and forms -----------------------------------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    const field = document.getElementById("find");
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
    if (event.key === "/" && field && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      field.focus();
    }
  });
  all("[data-all]").forEach((box) =>
    box.addEventListener("change", () =>
      all(`input[type=checkbox][name="${box.dataset.all}"]`, box.form).forEach((one) => { one.checked = box.checked; })));
  all("[data-reload]").forEach((element) => setTimeout(() => location.reload(), Number(element.dataset.reload)));

  // --- charts -------------------------------------------------------------------------------------------------------------------
  const NAMES = {
    applied: "applied", batch: "copy: batch", redis: "copy: redis", ledger: "copy: ledger", operation: "copy: operation",
    quarantine: "copy: quarantine", quarantined: "quarantined",
  };
  const probe = document.createElement("span");
  const colour = (name) => {
    // Resolved through an element: a custom property by itself is still a pair of colours.
    document.body.append(probe);
    probe.className = "";
    probe.style.color = `var(--${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const written = (value) => {
    if (value == null) return "–";
    if (value >= 100 || value === 0) return Math.round(value).toLocaleString("en");
    return value.toFixed(value < 0.1 ? 3 : 1);
  };
  const two = (n) => String(n).padStart(2, "0");
  const clock = (seconds, step) => {
    const at = new Date(seconds * 1000);
    const day = `${at.toLocaleString("en", { month: "short", timeZone: "UTC" })} ${at.getUTCDate()}`;
    if (step >= 86400) return day;
    const minutes = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
    if (step < 60) return `${minutes}:${two(at.getUTCSeconds())}`;
    return at.getUTCHours() === 0 && at.getUTCMinutes() === 0 ? day : minutes;
  };

  class Chart {
    constructor(element) {
      this.element = element;
      this.range = element.dataset.chart;
      this.source = element.dataset.source;
      this.isLive = this.range === "5m" && !this.source;
      this.seconds = { "5m": 300, "15m": 900, "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800, "30d": 2592000 }[this.range];
      this.note = element.parentElement.querySelector("[data-chart-note]");
      this.data = null;
      new ResizeObserver(() => this.plot?.setSize(this.size())).observe(element);
      this.load();
    }

    async load() {
      const query = new URLSearchParams({ range: this.range });
      if (this.source) query.set("source", this.source);
      let pause = this.isLive ? 30 : 10;
      try {
        const answer = await fetch(`/api/history?${query}`);
        if (!answer.ok) throw new Error(String(answer.status));
        const data = await answer.json();
        pause = this.isLive ? 0 : Math.max(10, data.step_s / 6);
        this.take(data);
      } catch {
        this.say("The past cannot be shown while PostgreSQL does not answer.");
      }
      if (pause) setTimeout(() => this.load(), pause * 1000);
    }

    take(data) {
      // Of duplicates only: the layers between what was applied and what was quarantined.
      const chosen = data.series.map((name, at) => ({ name, at })).filter(({ name }) =>
        this.element.dataset.only !== "duplicates" || (name !== "applied" && name !== "quarantined"));
      this.names = chosen.map(({ name }) => name);
      this.chosen = chosen.map(({ at }) => at);
      this.step = data.step_s;
      this.data = { t: data.t, y: this.chosen.map((at) => data.y[at]) };
      if (this.step >= 60 && data.t.length) {
        // A step has a width, the last one too.
        data.t.push(data.t[data.t.length - 1] + this.step);
        this.data.y.forEach((row) => row.push(row[row.length - 1]));
      }
      this.draw();
    }

    // A new reading.
    push(point) {
      if (!this.isLive || !this.data || !point) return;
      const { t, y } = this.data;
      if (t.length && point.t <= t[t.length - 1]) return;
      t.push(point.t);
      this.chosen.forEach((at, row) => y[row].push(point.y[at]));
      while (t.length && t[0] < point.t - this.seconds) {
        t.shift();
        y.forEach((row) => row.shift());
      }
      if (this.plot) this.show(); else this.draw();
    }

    say(words) {
      if (this.note && this.note.textContent !== words) this.note.textContent = words;
    }

    size() {
      return { width: Math.max(240, this.element.clientWidth), height: 240 };
    }

    // The highest line first, each filled down to the axis, so that the next covers all but its own share.
    stacked() {
      const sums = [];
      let below = this.data.t.map(() => 0);
      for (const row of this.data.y) {
        below = below.map((sum, at) => sum + row[at]);
        sums.unshift(below);
      }
      return [this.data.t, ...sums];
    }

    show() {
      this.plot.setData(this.stacked());
      const isQuiet = this.data.y.every((row) => row.every((value) => value === 0));
      this.say(isQuiet ? "Nothing of this came in this time." : "");
    }

    draw() {
      if (!this.data) return;
      this.plot?.destroy();
      const names = [...this.names].reverse();
      const rows = () => [...this.data.y].reverse();
      const line = this.step >= 60 ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear();
      const faint = colour("faint"), grid = { stroke: colour("line"), width: 1 };
      const axis = { stroke: faint, grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      const end = () => Math.max(this.data.t[this.data.t.length - 1] ?? 0, Date.now() / 1000);
      this.plot = new uPlot({
        ...this.size(),
        padding: [12, 24, 0, 0],
        scales: {
          x: { range: () => [end() - this.seconds, end()] },
          y: { range: (_, __, max) => [0, Math.max(max * 1.08, 1)] },
        },
        axes: [
          { ...axis, space: 70, size: 28, values: (_, splits, __, ___, step) => splits.map((at) => clock(at, step)) },
          { ...axis, size: 56, values: (_, splits) => splits.map((value) => (value >= 10000 ? `${value / 1000}k` : value.toLocaleString("en"))) },
        ],
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        legend: { markers: { width: 0, fill: (_, at) => (at ? colour(`s-${names[at - 1]}`) : "transparent") } },
        series: [
          { label: "time", value: (_, at) => (at == null ? "newest" : `${clock(at, 1)} `) },
          ...names.map((name, row) => ({
            label: NAMES[name], stroke: colour(`s-${name}`), fill: colour(`s-${name}`), width: 1, paths: line, points: { show: false },
            value: (_, __, ___, at) => written(rows()[row]?.[at ?? this.data.t.length - 1]),
          })),
        ],
      }, this.stacked(), this.element);
      this.show();
    }
  }
  const charts = typeof uPlot === "undefined" ? [] : all("[data-chart]").map((element) => new Chart(element));

  // --- live ---------------------------------------------------------------------------------------------------------------------
  const link = document.getElementById("link");
  const linked = (state, words) => {
    if (!link) return;
    link.dataset.state = state;
    document.getElementById("link-text").textContent = words;
  };
  const replace = (element, html) => {
    if (element.dataset.last === html || element.contains(document.activeElement)) return;
    element.dataset.last = html;
    element.innerHTML = html; // Made by the same escaping templates as the page.
  };
  const take = ({ texts, html, point }) => {
    for (const element of all("[data-text]")) {
      const text = texts[element.dataset.text];
      if (text !== undefined && element.textContent !== text) element.textContent = text;
    }
    for (const element of all("[data-state-of]")) element.dataset.state = texts[element.dataset.stateOf] ?? "unknown";
    for (const element of all("[data-html]")) {
      if (html[element.dataset.html] !== undefined) replace(element, html[element.dataset.html]);
    }
    charts.forEach((chart) => chart.push(point));
  };
  if (document.body.dataset.live) {
    const events = new EventSource(document.body.dataset.live);
    events.onopen = () => linked("up", "live");
    events.onerror = () => linked("away", "not live");
    events.onmessage = (event) => take(JSON.parse(event.data));
    addEventListener("pagehide", () => events.close());
  }
})();

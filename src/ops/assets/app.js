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
    });
  }

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
  // Drawn by the server; fetched again as often as something new can be on it, and at once when the past could not be shown.
  const SECONDS_MIN = 2, SECONDS_AFTER_A_FAILURE = 10;
  all("[data-chart]").forEach((element) => {
    const { chart: range, source, only, step } = element.dataset;
    const query = new URLSearchParams({ range, ...(source && { source }), ...(only && { only }) });
    const pause = (seconds) => setTimeout(renew, seconds * 1000);
    const renew = async () => {
      let seconds = Math.max(SECONDS_MIN, Number(step) / 6);
      try {
        const answer = await fetch(`/figure?${query}`);
        if (!answer.ok) throw new Error(String(answer.status));
        const drawn = await answer.text();
        if (!element.matches(":hover")) element.innerHTML = drawn; // Made by the same escaping templates as the page.
      } catch {
        seconds = SECONDS_AFTER_A_FAILURE;
      }
      pause(seconds);
    };
    pause(SECONDS_MIN);
  });

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
  const take = ({ texts, html }) => {
    for (const element of all("[data-text]")) {
      const text = texts[element.dataset.text];
      if (text !== undefined && element.textContent !== text) element.textContent = text;
    }
    for (const element of all("[data-state-of]")) element.dataset.state = texts[element.dataset.stateOf] ?? "unknown";
    for (const element of all("[data-html]")) {
      if (html[element.dataset.html] !== undefined) replace(element, html[element.dataset.html]);
    }
  };
  if (document.body.dataset.live) {
    const events = new EventSource(document.body.dataset.live);
    events.onopen = () => linked("up", "live");
    events.onerror = () => linked("down", "not live");
    events.onmessage = (event) => take(JSON.parse(event.data));
    addEventListener("pagehide", () => events.close());
  }
})();

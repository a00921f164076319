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
  const keys = document.getElementById("keys");
  // Rows that lead somewhere; the one at hand has the focus in it, or had it last.
  const rows = () => all("main tbody tr").filter((row) => row.querySelector("a[href]"));
  const step = (by) => {
    const list = rows();
    const at = list.findIndex((row) => row.contains(document.activeElement));
    const next = list[at < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + by, 0), list.length - 1)];
    next?.querySelector("a[href]").focus();
    next?.scrollIntoView({ block: "nearest" });
  };
  const select = () => {
    const box = document.activeElement?.closest("main tbody tr")?.querySelector("input[type=checkbox]");
    if (box) {
      box.checked = !box.checked;
      box.dispatchEvent(new Event("change", { bubbles: true }));
    }
  };
  const does = {
    "/": () => document.getElementById("find")?.focus(),
    j: () => step(1),
    k: () => step(-1),
    x: select,
    "?": () => keys?.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    const active = document.activeElement;
    const isTyping = /^(SELECT|TEXTAREA)$/.test(active?.tagName ?? "") || active?.matches("input:not([type=checkbox], [type=radio])");
    if (event.key === "Escape" && isTyping) active.blur();
    if (isTyping || keys?.open || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(does, event.key)) return;
    event.preventDefault();
    does[event.key]();
  });
  // On a phone each row of a table is a card, whose values stand beside the names of their columns.
  const nameCells = (under) => all(".scroll > table", under).forEach((table) => {
    const names = all("thead th", table).map((head) => head.textContent.trim());
    if (names.length === 0) return;
    all("tbody tr, tfoot tr", table).forEach((row) => {
      let at = 0;
      for (const cell of row.cells) {
        if (cell.colSpan === 1 && names[at]) cell.dataset.name = names[at];
        at += cell.colSpan;
      }
    });
    table.dataset.named = "yes";
  });
  nameCells(document);

  // --- times: UTC, and those of this browser on demand --------------------------------------------------------------------------
  const local = document.getElementById("local");
  const showTimes = (under) => {
    for (const time of all("time[datetime]", under)) {
      time.dataset.utc ??= time.textContent;
      const at = new Date(time.dateTime);
      time.textContent = local?.ariaPressed === "true" ? `${at.toLocaleString()} (local)` : time.dataset.utc;
    }
  };
  if (local) {
    document.getElementById("local-part").hidden = false;
    local.addEventListener("click", () => {
      local.ariaPressed = local.ariaPressed === "true" ? "false" : "true";
      showTimes(document);
    });
  }
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
    showTimes(element);
    nameCells(element);
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

// Axes that become logarithmic, and the pictures of a run by step.
(() => {
  for (const button of document.querySelectorAll("button[data-log]"))
    button.addEventListener("click", () => {
      const log = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", log);
      for (const chart of button.closest("section").querySelectorAll(".loggable .plotly-graph-div"))
        Plotly.relayout(chart, { "yaxis.type": log ? "log" : "linear" });
    });

  for (const film of document.querySelectorAll(".film")) {
    const steps = JSON.parse(film.dataset.steps);
    const range = film.querySelector("input"), said = film.querySelector("output");
    const [earlier, later] = film.querySelectorAll("button");
    const reels = [...film.querySelectorAll(".reel")].map((reel) => ({
      name: reel.dataset.name, large: reel.querySelector(".large"),
      none: reel.querySelector(".none"), small: [...reel.querySelectorAll(".strip img")],
    }));
    const show = () => {
      const at = Number(range.value), step = steps[at];
      said.textContent = `step ${step.toLocaleString("en")}`;
      range.setAttribute("aria-valuetext", said.textContent);
      earlier.disabled = at === 0;
      later.disabled = at === steps.length - 1;
      for (const { name, large, none, small } of reels) {
        const now = small.filter((img) => Number(img.dataset.step) <= step).at(-1);
        for (const img of small) img.classList.toggle("now", img === now);
        large.hidden = !now;
        none.hidden = Boolean(now);
        if (!now) continue;
        large.src = now.src;
        large.className = `large ${now.dataset.kind}`;
        large.alt = `Samples of ${name} at step ${now.dataset.step}`;
        const strip = now.parentElement;
        strip.scrollLeft = now.offsetLeft - (strip.clientWidth - now.clientWidth) / 2;
      }
    };
    const move = (by) => { range.value = Number(range.value) + by; show(); };
    range.addEventListener("input", show);
    earlier.addEventListener("click", () => move(-1));
    later.addEventListener("click", () => move(1));
    for (const { small } of reels)
      for (const img of small)
        img.addEventListener("click", () => {
          range.value = steps.indexOf(Number(img.dataset.step));
          show();
        });
    film.querySelector(".controls").hidden = false;
    show();
    window.addEventListener("load", show); // by then the small pictures have their widths
  }
})();

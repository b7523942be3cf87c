// Charts take their colours from the page, now and when the reader turns dark mode on or off.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const paint = () => {
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    for (const chart of document.querySelectorAll(".plotly-graph-div")) {
      const layout = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        "font.color": colour("--ink"), "hoverlabel.bgcolor": colour("--raised"),
        "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": colour("--soft"),
        "modebar.activecolor": colour("--ink") };
      for (const name of Object.keys(chart._fullLayout).filter((key) => /^[xy]axis\d*$/.test(key)))
        for (const [key, value] of Object.entries(axis)) layout[`${name}.${key}`] = value;
      Plotly.relayout(chart, layout);
    }
  };
  paint();
  // what is drawn while the page still loads may have been laid out wider or narrower since
  const sizes = new ResizeObserver((seen) => seen.forEach((each) => Plotly.Plots.resize(each.target)));
  for (const chart of document.querySelectorAll(".plotly-graph-div")) sizes.observe(chart);
  // on a touch screen a finger that starts on a chart scrolls the page
  if (window.matchMedia("(pointer: coarse)").matches)
    for (const chart of document.querySelectorAll(".plotly-graph-div"))
      Plotly.relayout(chart, { dragmode: false });
  dark.addEventListener("change", paint);
})();

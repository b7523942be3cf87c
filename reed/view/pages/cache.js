// The gallery and the chosen sample; the address ends with it: #sample=KEY.
(() => {
  const { data, element, thumbnail } = draw;
  const gallery = document.getElementById("gallery"), article = document.getElementById("sample");
  const chosen = new Map();  // token numbers by count of tokens, from sample to sample
  let current = -1;

  const ending = (key) => (key.length > 13 ? `…${key.slice(-12)}` : key);  // where keys differ
  const button = (place, title, under, action) => element("button", { type: "button", title, onclick: action },
    thumbnail(data.samples[place], place),
    element("span", { className: "key" }, ending(data.samples[place].key)),
    element("span", { className: "soft" }, under));
  const buttons = data.samples.map((sample, place) => {
    const made = button(place, sample.key, sample.labels[0] || `#${sample.row}`, () => go(place));
    gallery.append(element("li", {}, made));
    return made;
  });

  const figure = (name, panel, ...content) => element("figure", { className: name },
    element("h4", {}, panel.title), ...content, element("figcaption", {}, panel.caption));
  const text = (panel) => figure("wide", panel, element("p", { className: "text" }, panel.text));
  const shown = (panel) => {
    if (panel.shows === "text") return text(panel);
    return figure("", panel, ...(panel.shows === "image" ? [draw.image(panel)] : draw[panel.shows](panel)));
  };
  const drawn = (shape) => [
    figure("", shape, shape.problem ? element("p", { className: "bad" }, shape.problem) : draw.plain(shape)),
    ...(shape.sequence ? [text({ title: "sequence", text: shape.sequence, caption: "" })] : []),
  ];
  const about = (place, cosine) =>
    [`cosine ${draw.number(cosine)}`, ...data.samples[place].labels.slice(0, 1)].join(", ");
  const neighbours = (place) => {
    const rows = data.near.filter((each) => each.of[place]).map((each) =>
      element("div", { className: "near" }, element("span", { className: "soft" }, each.title),
        element("ul", {}, ...each.of[place].map(([other, cosine]) => element("li", {},
          button(other, data.samples[other].key, about(other, cosine), () => {
            go(other);
            buttons[other].focus();
          }))))));
    const title = `Nearest among the ${data.samples.length} shown`;
    return rows.length ? [element("section", { className: "tokens" }, element("h4", {}, title), ...rows)] : [];
  };

  const show = (place) => {
    const sample = data.samples[place], fields = [];
    const changed = (by) => fields.forEach((each) => each.paint(each === by));
    for (const field of data.tokens)
      if (field.samples[place]) fields.push(new tokens.Field(field, place, chosen, changed));
    const order = { image: 0, text: 1 };
    const shows = [...sample.shows].sort((a, b) => order[a.shows] - order[b.shows]);
    const pictures = shows.filter((panel) => panel.shows === "image").map(shown);
    const texts = shows.filter((panel) => panel.shows === "text").map(shown);
    const missing = Object.entries(sample.missing).map(([column, reason]) =>
      element("p", { className: "bad" }, `${column}: ${reason}`));
    const labels = [`#${sample.row}`, ...sample.labels].map((text) => element("li", {}, text));
    const others = sample.others.length ? [element("details", { className: "tokens" },
      element("summary", {}, `Other fields (${sample.others.length})`),
      element("div", { className: "others" }, ...sample.others.map(shown)))] : [];
    article.replaceChildren(element("h3", {}, sample.key), element("ul", { className: "labels" }, ...labels),
      ...missing, element("div", { className: "looks" }, ...pictures, ...sample.drawings.flatMap(drawn), ...texts),
      ...fields.map((each) => each.box), ...neighbours(place), ...others);
    article.setAttribute("aria-label", `Sample ${sample.key}`);
  };

  const choose = (place) => {
    if (place === current || !(place >= 0 && place < buttons.length)) return;
    current = place;
    buttons.forEach((each, i) => {
      each.tabIndex = i === place ? 0 : -1;
      if (i === place) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    });
    const left = buttons[place].parentElement.offsetLeft - gallery.offsetLeft;
    gallery.scrollLeft = left - (gallery.clientWidth - buttons[place].offsetWidth) / 2;
    show(place);
  };
  const go = (place) => {
    if (!(place >= 0 && place < buttons.length)) return;
    choose(place);
    history.replaceState(null, "", `#sample=${encodeURIComponent(data.samples[place].key)}`);
  };
  const named = () => {
    const [, key] = location.hash.match(/^#sample=(.*)$/) || [];
    try {
      return key === undefined ? -1 : data.samples.findIndex((each) => each.key === decodeURIComponent(key));
    } catch {
      return -1;  // no URI
    }
  };

  gallery.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go(to);
    buttons[current].focus({ preventScroll: true });
  });
  window.addEventListener("hashchange", () => choose(named()));
  choose(Math.max(named(), 0));
})();

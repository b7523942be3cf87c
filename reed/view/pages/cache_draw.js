// What numbers of the page's data look like: maps, bars, drawings with points, thumbnails.
const draw = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const unpack = (text, kind) =>
    new kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const number = (value) => Number(value.toPrecision(3)).toString();

  // An element with properties (those with a "-" and of SVG are attributes) and children.
  const element = (name, properties = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties))
      if (key.includes("-") || key === "role") made.setAttribute(key, value);
      else made[key] = value;
    made.append(...children);
    return made;
  };
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  const anchors = data.viridis.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  const viridis = (level) => {
    const place = Math.min(Math.max(level, 0), 1) * (anchors.length - 1);
    const low = Math.min(Math.floor(place), anchors.length - 2);
    return anchors[low].map((from, i) => Math.round(from + (place - low) * (anchors[low + 1][i] - from)));
  };
  const css = (colour) => `rgb(${colour.join(",")})`;
  const scale = (low, high) => {
    const bar = element("i");
    bar.style.background = `linear-gradient(90deg, ${data.viridis.join(",")})`;
    return element("span", { className: "scale" }, number(low), bar, number(high));
  };

  // Colours [r, g, b] (none: nothing is there), `across` in a row, in squares of `size` pixels.
  const cells = (canvas, colours, across, size) => {
    canvas.width = across * size;
    canvas.height = Math.ceil(colours.length / across) * size;
    const context = canvas.getContext("2d");
    colours.forEach((colour, i) => {
      if (!colour) return;
      context.fillStyle = css(colour);
      context.fillRect((i % across) * size, Math.floor(i / across) * size, size, size);
    });
    return context;
  };

  const map = (panel) => {
    const levels = [...unpack(panel.levels, Uint8Array)];
    const canvas = element("canvas", { role: "img", "aria-label": panel.title });
    cells(canvas, levels.map((level) => (level === 255 ? null : viridis(level / 254))), panel.columns, 1);
    return [canvas, scale(panel.low, panel.high)];
  };
  const bars = (panel) => {
    const levels = [...unpack(panel.levels, Uint8Array)];
    const low = Math.min(panel.low, 0), span = Math.max(panel.high, 0) - low || 1;
    const height = (value) => 100 - (100 * (value - low)) / span;
    const path = levels.map((level, i) => {
      if (level === 255) return "";
      const top = height(panel.low + (level / 254) * (panel.high - panel.low));
      return `M${i},${height(0)}V${top}h0.9V${height(0)}z`;
    }).join("");
    const box = svg("svg", { viewBox: `0 0 ${levels.length} 100`, preserveAspectRatio: "none",
      role: "img", "aria-label": panel.title });
    box.append(svg("path", { d: path }));
    return [box, element("span", { className: "soft" }, `${number(panel.low)} to ${number(panel.high)}`)];
  };
  const image = (panel, name = "picture") => element("img", {
    src: panel.src, alt: panel.title, className: panel.width < 128 ? `${name} pixels` : name,
  });

  // A drawing with a circle per point; colour: of a point's token and group.
  const drawing = (shape, colour) => {
    const side = data.side, heights = shape.points.map(([, , y]) => y);
    const top = Math.max(Math.min(...heights) - 28, 0), end = Math.min(Math.max(...heights) + 28, side);
    const box = svg("svg", { class: "drawing", viewBox: `0 ${top} ${side} ${end - top}` });
    const places = new Map(shape.points.map(([token, x, y]) => [token, [x, y]]));
    for (const [a, b] of shape.lines) {
      const [x1, y1] = places.get(a), [x2, y2] = places.get(b);
      box.append(svg("line", { x1, y1, x2, y2 }));
    }
    for (const [token, cx, cy, group] of shape.points) {
      const fill = colour(token, group);
      if (fill) box.append(svg("circle", { cx, cy, r: shape.src ? 12 : 5, fill, "data-token": token }));
    }
    if (shape.src) {
      box.classList.add("plate", "on-plate");
      const picture = svg("image", { href: shape.src, width: side, height: side });
      picture.style.pointerEvents = "none";
      box.append(picture);
    }
    return box;
  };
  const groups = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f"];
  const plain = (shape) => drawing(shape, (_, group) => (shape.src ? null : groups[group % groups.length]));

  // A small picture of a sample: what there is of an image, a drawing, tokens.
  const thumbnail = (sample, place) => {
    const picture = sample.shows.find((panel) => panel.shows === "image");
    const shape = sample.drawings.find((each) => !each.problem);
    const field = data.tokens.find((each) => each.samples[place]);
    let made = element("span");
    if (picture) made = image(picture, "");
    else if (shape) made = plain(shape);
    else if (field) {
      const tokens = field.samples[place];
      cells((made = element("canvas")), colours(tokens), tokens.across, 1);
    }
    made.classList.add("thumbnail");
    made.setAttribute("aria-hidden", "true");
    return made;
  };
  const colours = (tokens) => {
    const flat = unpack(tokens.colours, Uint8Array);
    return Array.from({ length: tokens.count }, (_, i) => [...flat.slice(3 * i, 3 * i + 3)]);
  };

  return { data, unpack, number, element, viridis, css, scale, cells, map, bars, image, drawing, plain,
    thumbnail, colours };
})();

// The tokens of a sample: colours, norms, and how alike the others are to the chosen one.
const tokens = (() => {
  const { data, unpack, number, element } = draw;

  const cosines = (steps, count, directions, chosen) => {
    const row = (i) => steps.subarray(i * directions, (i + 1) * directions);
    const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
    const mine = row(chosen), length = Math.sqrt(dot(mine, mine));
    return Array.from({ length: count }, (_, i) => {
      const other = row(i), both = length * Math.sqrt(dot(other, other));
      return both ? dot(mine, other) / both : 0;
    });
  };
  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  };

  // One field of one sample; chosen: token numbers by count, kept from field to field.
  class Field {
    constructor(field, place, chosen, changed) {
      const own = field.samples[place], sample = data.samples[place];
      Object.assign(this, { field, own, chosen, changed });
      this.size = Math.max(1, Math.floor(320 / own.across));
      this.colours = draw.colours(own);
      this.norms = unpack(own.norms, Float32Array);
      this.steps = unpack(own.steps, Int8Array);
      this.shape = sample.drawings.find((each) => each.total === own.count && !each.problem);
      this.names = sample.drawings.find((each) => each.total === own.count)?.names || [];
      this.picture = field.is_grid && sample.shows.find((panel) => panel.shows === "image");
      this.said = element("p", { className: "soft said" });
      this.box = this.build();
      this.paint();
    }
    get token() { return Math.min(this.chosen.get(this.own.count) ?? 0, this.own.count - 1); }

    build() {
      const { field, own } = this, rows = Math.ceil(own.count / own.across);
      const shape = field.is_grid ? `${rows} × ${own.across} patches` : `${own.count} tokens, row by row`;
      this.canvases = ["colours", "similarity", "norms"].map((what) => element("canvas", {
        role: "img", "aria-label": `${field.title}: ${what}` }));
      const similar = this.canvases[1];
      similar.tabIndex = 0;
      similar.setAttribute("role", "application");
      similar.setAttribute("aria-roledescription", "token map");
      similar.setAttribute("aria-label", `${field.title}: similarity. Arrow keys choose a token.`);
      similar.addEventListener("keydown", (event) => this.key(event));
      for (const canvas of this.canvases) this.pick(canvas);
      this.similarScale = element("span");
      const tile = (content, ...caption) =>
        element("figure", { className: "tile" }, content, element("figcaption", {}, ...caption));
      this.tiles = element("div", { className: "tiles" });
      if (this.picture || this.shape) this.tiles.append(this.first = tile(element("span"),
        this.picture ? this.picture.title : "the same cosines"));
      this.tiles.append(
        tile(this.canvases[0], "three principal components"),
        tile(similar, "cosine to the chosen token", this.similarScale),
        tile(this.canvases[2], "norm", draw.scale(field.low, field.high)),
      );
      return element("section", { className: "tokens" },
        element("h4", {}, `${field.title} · ${shape}`), this.tiles, this.said,
        element("p", { className: "soft" }, field.note));
    }

    choose(token) {
      if (!(token >= 0 && token < this.own.count)) return;
      this.chosen.set(this.own.count, token);
      this.changed(this);
    }
    pick(canvas) {
      canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect(), { across, count } = this.own;
        const column = Math.floor(((event.clientX - box.left) / box.width) * across);
        const row = Math.floor(((event.clientY - box.top) / box.height) * Math.ceil(count / across));
        if (column >= 0 && column < across) this.choose(row * across + column);
      });
    }
    key(event) {
      const { across, count } = this.own, at = this.token;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - across, ArrowDown: at + across,
        Home: 0, End: count - 1 }[event.key];
      if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.choose(to);
    }

    // spoken: whether a screen reader is to hear of it; fields of as many tokens follow in silence.
    paint(spoken = false) {
      this.said.setAttribute("aria-live", spoken ? "polite" : "off");
      const { own, field, size } = this, at = this.token;
      const found = this.found = cosines(this.steps, own.count, field.directions, at);
      const low = Math.min(...found), high = Math.max(...found), span = high - low || 1;
      const similar = found.map((value) => draw.viridis((value - low) / span));
      const range = field.high - field.low || 1;
      const norms = Array.from(this.norms, (value) => draw.viridis((value - field.low) / range));
      [this.colours, similar, norms].forEach((colours, i) =>
        this.mark(draw.cells(this.canvases[i], colours, own.across, size)));
      this.similarScale.replaceChildren(draw.scale(low, high));
      if (this.picture) this.paintPicture();
      else if (this.shape) this.paintShape(similar);
      const where = field.is_grid
        ? `Patch in row ${Math.floor(at / own.across) + 1}, column ${(at % own.across) + 1}`
        : `Token ${at + 1} of ${own.count}${this.names[at] ? ` (${this.names[at]})` : ""}`;
      const others = found.filter((_, i) => i !== at);
      const spread = others.length ? `cosine to the others: least ${number(Math.min(...others))}, median ` +
        `${number(median(others))}, most ${number(Math.max(...others))}` : "there is no other";
      this.said.textContent = `${where}: ${spread}; its norm is ${number(this.norms[at])}.`;
    }
    // A frame around the chosen token, dark on light on dark, so that it shows on any colour.
    mark(context) {
      const { size, own } = this, at = this.token, line = Math.min(Math.max(1, size / 16), 4);
      const x = (at % own.across) * size, y = Math.floor(at / own.across) * size;
      [["#000000", 3 * line], ["#ffffff", line]].forEach(([colour, width]) => {
        context.strokeStyle = colour;
        context.lineWidth = width;
        const inset = Math.min(1.5 * line, size / 2);
        context.strokeRect(x + inset, y + inset, Math.max(size - 2 * inset, 1), Math.max(size - 2 * inset, 1));
      });
    }
    paintPicture() {
      const canvas = element("canvas", { role: "img", "aria-label": "the image" });
      const context = draw.cells(canvas, this.colours.map(() => null), this.own.across, this.size);
      const source = new Image();
      source.onload = () => {
        context.imageSmoothingEnabled = source.width >= 128;
        context.drawImage(source, 0, 0, canvas.width, canvas.height);
        this.mark(context);
        this.first.firstChild.replaceWith(canvas);
      };
      source.src = this.picture.src;
      this.pick(canvas);
    }
    paintShape(similar) {
      const box = draw.drawing(this.shape, (token) => draw.css(similar[token]));
      for (const circle of box.querySelectorAll("circle")) {
        const token = Number(circle.dataset.token);
        circle.classList.toggle("chosen", token === this.token);
        circle.addEventListener("click", () => this.choose(token));
      }
      box.setAttribute("role", "img");
      box.setAttribute("aria-label", `${this.shape.title} by similarity to the chosen token`);
      this.first.firstChild.replaceWith(box);
    }
  }
  return { Field };
})();

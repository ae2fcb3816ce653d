// Each .viewer shows one of its stacked pictures at a time; flicker alternates two of them. Without JavaScript the last one (after) shows.
document.querySelectorAll(".viewer").forEach((viewer, number) => {
  const layers = viewer.dataset.layers.split(",");
  const image = (name) => viewer.querySelector(`img[data-name="${name}"]`);
  let timer = null;
  const press = (button) => viewer.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === button));
  const show = (name) => layers.forEach((layer) => { image(layer).hidden = layer !== name; });
  const stop = () => { clearInterval(timer); timer = null; };
  const start = (button) => {
    stop();
    const pair = button.dataset.flicker.split(",");
    let turn = 0;
    show(pair[0]);
    timer = setInterval(() => show(pair[turn = 1 - turn]), 600);
    press(button);
  };
  const pick = (name) => { stop(); show(name); press(viewer.querySelector(`button[data-show="${name}"]`)); };
  viewer.querySelectorAll("button[data-show]").forEach((b) => b.addEventListener("click", () => pick(b.dataset.show)));
  viewer.querySelectorAll("button[data-flicker]").forEach((b) => b.addEventListener("click", () => (timer && b.getAttribute("aria-pressed") === "true" ? pick(viewer.dataset.start) : start(b))));
  viewer.querySelectorAll("input[data-layer]").forEach((box) => box.addEventListener("change", () => { image(box.dataset.layer).hidden = !box.checked; }));
  pick(viewer.dataset.start);
  if (number === 0) document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const name = { f: "fixed", b: "before", a: "after" }[event.key];
    if (name) pick(name);
    else if (event.key === "e") viewer.querySelector("input").click();
    else if (event.key === " ") { event.preventDefault(); timer ? pick(viewer.dataset.start) : start(viewer.querySelector('button[data-flicker="fixed,after"]')); }
  });
});

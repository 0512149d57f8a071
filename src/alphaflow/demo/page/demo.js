// The demo's page: what is asked for goes to /api/generate, once for each model, and pictures come back.

const find = (selector, within = document) => within.querySelector(selector);

/** A range and a number that say the same; `read` gives it, and `changed` is called once somebody lets go. */
function slider(id, name, low, high, value, step, changed) {
  const label = document.createElement("label");
  label.className = "name";
  label.textContent = name;
  const [range, number] = ["range", "number"].map((type) =>
    Object.assign(document.createElement("input"), { type, min: low, max: high, step, value, required: true }));
  label.htmlFor = number.id = `${id}-number`;
  range.setAttribute("aria-label", name);
  range.addEventListener("input", () => { number.value = range.value; });
  number.addEventListener("input", () => { range.value = number.value; });
  for (const one of [range, number]) one.addEventListener("change", changed);
  const row = document.createElement("div");
  row.append(range, number);
  find(`#${id}`).append(label, row);
  return () => number.valueAsNumber;
}

function choices(id, listed, changed) {
  const select = find(`#${id} select`);
  select.append(...listed.map(([words, value]) => new Option(words, JSON.stringify(value))));
  select.addEventListener("change", changed);
  return () => JSON.parse(select.value);
}

/** A place for a model's grid; `show` asks for one anew, and lets go of what was asked before. */
function place(name, k) {
  const section = document.createElement("section");
  section.className = "part";
  section.innerHTML = `<h2></h2><figure><div><img hidden alt="generated pictures"></div>
    <figcaption><output>–</output><a hidden>Download</a></figcaption></figure>`;
  find("h2", section).textContent = name;
  find("figure div", section).id = `picture-${k}`;
  const [image, time, link] = ["img", "output", "a"].map((one) => find(one, section));
  time.id = `time-${k}`;
  link.id = `download-${k}`;
  find("#models").append(section);
  let latest;
  return async function show(request) {
    latest?.abort(); // the server then drops it
    const mine = latest = new AbortController();
    section.classList.add("busy");
    try {
      const reply = await fetch("api/generate", {
        method: "POST", body: JSON.stringify({ ...request, model: k }), signal: mine.signal,
      });
      if (!reply.ok) throw new Error((await reply.json()).error);
      const milliseconds = 1000 * Number(reply.headers.get("X-Seconds"));
      const old = image.src;
      const picture = URL.createObjectURL(await reply.blob());
      if (mine !== latest) return URL.revokeObjectURL(picture);
      image.src = link.href = picture;
      image.hidden = link.hidden = false;
      link.download = `${name}-seed${request.seed}.png`;
      if (old) URL.revokeObjectURL(old);
      const each = request.count > 1 ? `, ${(milliseconds / request.count).toFixed(2)} ms each` : "";
      time.textContent = `${milliseconds.toFixed(1)} ms${each}, ${reply.headers.get("X-Runtime")}`;
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      if (mine === latest) section.classList.remove("busy");
    }
  };
}

function tell(words) {
  find("#problem").textContent = words ?? "";
  find("#problem").hidden = !words;
}

async function open() {
  const about = await (await fetch("api/about")).json();
  const { most, num_classes: many, guidable } = about;
  const title = about.models.join(" beside ");
  document.title = `${title} · α-Flow`;
  find("#title").textContent = title;
  const names = about.class_names.length ? about.class_names : Array.from({ length: many }, (_, k) => String(k));
  const listed = [["each class in turn", "in turn"], ...names.map((name, k) => [name, k])];
  if (guidable) listed.push(["no class", -1]);
  find("#label").hidden = many === 0;
  find("#prompt").hidden = !about.examples.length;
  find("#examples").append(...about.examples.map((words) => new Option(words, words)));
  find("#guidance").hidden = !guidable;
  const columns = about.examples.length || many;
  const usual = columns > 1 && columns <= 20 ? Math.floor(most.count / columns) * columns : most.count; // whole rows

  const prompt = find("#prompt input");
  prompt.maxLength = most.letters;
  prompt.addEventListener("change", generate);
  const seed = find("#seed input");
  seed.max = most.seed;
  seed.addEventListener("change", generate);
  const read = {
    label: choices("label", listed, generate),
    prompt: () => prompt.value,
    seed: () => seed.valueAsNumber,
    count: slider("count", "Pictures", 1, most.count, usual, 1, generate),
    nfe: slider("nfe", "Steps", 1, most.nfe, 1, 1, generate),
    method: choices("method", about.methods.map((name) => [name, name]), generate),
    guidance: slider("guidance", "Guidance (1: none)", ...about.scales, 1, 0.1, generate),
  };
  const places = about.models.map(place);

  async function generate() {
    const request = Object.fromEntries(Object.entries(read).map(([name, value]) => [name, value()]));
    if (!find("#request").reportValidity()) return;
    tell();
    try {
      await Promise.all(places.map((show) => show(request)));
    } catch (error) {
      tell(error.message);
    }
  }

  find("#request").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  find("#another").addEventListener("click", () => {
    seed.value = Math.floor(Math.random() * 100_000);
    generate();
  });
  await generate();
}

open().catch((error) => tell(`the demo does not answer: ${error.message}`));

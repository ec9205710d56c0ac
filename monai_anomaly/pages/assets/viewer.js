// One case: image, map and outlines; volumes through NiiVue, images on a plain canvas.
"use strict";
const monaiAnomaly = (() => {
  const waiting = new Map(), kept = new Map(), KEPT = 3;
  const TRUTH = [86, 180, 233], PREDICTION = [230, 159, 0];

  /** Load a case's file as a script: pages opened from disk may not fetch. */
  function load(record) {
    if (kept.has(record.number)) return Promise.resolve(kept.get(record.number));
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(record.number, resolve);
      script.onload = () => script.remove();
      script.onerror = () => reject(new Error(`${record.data} is missing; write the report again.`));
      script.src = record.data;
      document.head.append(script);
    });
  }
  function take(number, data) {
    kept.set(number, data);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    waiting.get(number)?.(data);
    waiting.delete(number);
  }

  const lookUp = (name) => niivue.cmapper.colormap(name);
  const picture = (address) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture of this case is broken; write the report again."));
    image.src = address;
  });
  function pixels(image, width, height) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  }

  /** An image on a canvas; the wheel zooms, dragging moves. */
  async function imageStage(canvas, data, run) {
    const part = data.runs[run], { width, height } = data;
    const read = async (address) => (address ? pixels(await picture(address), width, height).data : null);
    const [base, map, truth, prediction] = await Promise.all([data.image, part.map, data.truth, part.prediction].map(read));
    canvas.width = width;
    canvas.height = height;
    let zoom = 1, shift = [0, 0];
    const place = () => (canvas.style.transform = `translate(${shift[0]}px, ${shift[1]}px) scale(${zoom})`);
    canvas.parentElement.style.overflow = "hidden";
    canvas.onwheel = (event) => {
      event.preventDefault();
      zoom = Math.min(Math.max(zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2), 1), 20);
      if (zoom === 1) shift = [0, 0];
      place();
    };
    canvas.onpointermove = (event) => {
      if (event.buttons !== 1) return;
      shift = [shift[0] + event.movementX, shift[1] + event.movementY];
      place();
    };
    function draw(look) {
      const shown = new ImageData(new Uint8ClampedArray(base), width, height), out = shown.data, colors = lookUp(look.colors);
      const span = part.high - part.low, range = look.high - look.threshold || 1;
      for (let at = 0; at < out.length; at += 4) {
        if (map && look.map) {
          const value = part.low + (map[at] / 255) * span;
          if (value >= look.threshold) {
            const color = 4 * Math.round(255 * Math.min((value - look.threshold) / range, 1));
            for (let c = 0; c < 3; c++) out[at + c] += look.opacity * (colors[color + c] - out[at + c]);
          }
        }
        if (truth && look.truth && truth[at]) out.set(TRUTH, at);
        if (prediction && look.prediction && prediction[at]) out.set(PREDICTION, at);
      }
      canvas.getContext("2d").putImageData(shown, 0, 0);
    }
    return { draw, goTo() {}, index: () => 0, plane() {} };
  }

  /** A color scale that hides what is below its first color, and nothing above: NiiVue's own fade in. */
  function solid(nv, name) {
    const colors = Array.from(lookUp(name)), channel = (at) => colors.filter((_, index) => index % 4 === at);
    const places = Array.from({ length: 256 }, (_, index) => index);
    nv.addColormap(`solid ${name}`, { R: channel(0), G: channel(1), B: channel(2), A: places.map((at) => (at ? 255 : 0)), I: places });
    return `solid ${name}`;
  }

  /** A volume in NiiVue, whose spacing and orientation are the file's. */
  async function volumeStage(canvas, data, run, onMove) {
    const part = data.runs[run];
    if (!document.createElement("canvas").getContext("webgl2"))
      throw new Error("This browser shows no volumes: it has no WebGL 2. Switch its hardware acceleration on, or take another one.");
    const nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1], show3Dcrosshair: false, isNearestInterpolation: true, dragAndDropEnabled: false,
      logLevel: "error", viewModeHotKey: "", clipPlaneHotKey: "", crosshairColor: [1, 1, 1, 0.4], crosshairWidth: 0.15, crosshairWidthUnit: "percent",
    });
    await nv.attachToCanvas(canvas);
    for (const [name, color] of [["truth", TRUTH], ["prediction", PREDICTION]]) {
      const [R, G, B] = color.map((value) => [value, value]);
      nv.addColormap(name, { R, G, B, A: [0, 255], I: [0, 255] });
    }
    const layers = {};
    async function add(name, base64, options) {
      if (!base64) return;
      layers[name] = await niivue.NVImage.loadFromBase64({ base64, name: `${name}.nii.gz`, ...options });
      nv.addVolume(layers[name]);
    }
    await add("image", data.image, { colormap: "gray", cal_min: 0, cal_max: 255 });
    await add("map", part.map, { colormap: solid(nv, "viridis"), opacity: 0.5 });
    await add("truth", data.truth, { colormap: "truth", cal_min: 0.5, cal_max: 1 });
    await add("prediction", part.prediction, { colormap: "prediction", cal_min: 0.5, cal_max: 1 });

    const length = data.step.reduce((sum, one) => sum + one * one, 0);
    const here = () => Array.from(nv.frac2mm(nv.scene.crosshairPos, 0, true)).slice(0, 3);
    const index = () => Math.round(here().reduce((sum, one, axis) => sum + (one - data.first[axis]) * data.step[axis], 0) / length);
    function goTo(wanted) {
      const steps = Math.min(Math.max(wanted, 0), data.count - 1) - index();
      nv.scene.crosshairPos = nv.mm2frac(here().map((one, axis) => one + steps * data.step[axis]), 0, true); // true: oblique volumes, too
      nv.drawScene();
      onMove(stage);
    }
    nv.onLocationChange = () => onMove(stage);
    function draw(look) {
      if (layers.map) {
        layers.map.colormap = solid(nv, look.colors); // first: it sets a range of its own
        layers.map.opacity = look.map ? look.opacity : 0;
        layers.map.cal_min = look.threshold;
        layers.map.cal_max = Math.max(look.high, look.threshold + 1e-6);
      }
      for (const name of ["truth", "prediction"]) if (layers[name]) layers[name].opacity = look[name] ? 1 : 0;
      nv.updateGLVolume();
    }
    function plane(name) {
      const kinds = niivue.SLICE_TYPE;
      nv.setSliceType({ sagittal: kinds.SAGITTAL, coronal: kinds.CORONAL, axial: kinds.AXIAL, all: kinds.MULTIPLANAR }[name]);
    }
    const value = () => {
      if (!layers.map) return null;
      const voxel = layers.map.mm2vox(here());
      return layers.map.getValue(...voxel);
    };
    const stage = {
      draw, goTo, index, plane, nv, value,
      follow(other) {
        nv.scene.crosshairPos = Array.from(other.nv.scene.crosshairPos);
        nv.scene.pan2Dxyzmm = Array.from(other.nv.scene.pan2Dxyzmm);
        nv.drawScene();
      },
      close: () => nv.gl?.getExtension("WEBGL_lose_context")?.loseContext(),
    };
    return stage;
  }

  return { load, take, imageStage, volumeStage, lookUp, TRUTH, PREDICTION };
})();

export { Niivue, NVImage, SLICE_TYPE, cmapper } from "@niivue/niivue";

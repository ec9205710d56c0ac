// The licences of what niivue.js holds, as their authors ship them.
import { readFileSync, readdirSync } from "node:fs";

const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
for (const [folder, { version, license, dev, optional }] of Object.entries(lock.packages)) {
  if (!folder || dev || optional) continue;
  const name = folder.replace("node_modules/", "");
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  console.log(`${name} ${version}, ${license}\n`);
  const text = file ? `${folder}/${file}` : `${name.split("/").pop()}-license.txt`; // NiiVue's package comes without
  console.log(readFileSync(text, "utf8").trim());
  console.log(`\n${"-".repeat(80)}\n`);
}

// Validates an AsyncAPI document: node validate.mjs FILE. Prints what the parser says; exit status 1 for an invalid document.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// The packages lie where the caller works, not beside this file.
const require = createRequire(join(process.cwd(), "package.json"));
const { Parser } = require("@asyncapi/parser");

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
for (const { severity, code, path, message } of diagnostics) {
  console.log(`${severity} ${code} at ${path.join("/")}: ${message}`);
}
const operations = document?.operations().all() ?? [];
const messages = document?.messages().all() ?? [];
console.log(`${operations.length} operations, ${messages.length} messages`);
// 0 is an error, 1 a warning; higher numbers are advice.
const wrong = diagnostics.some(({ severity }) => severity <= 1);
process.exit(document === undefined || wrong || operations.length === 0 ? 1 : 0);

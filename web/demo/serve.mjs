// `cargo xtask web`: serve what was built, until it is interrupted.

import { serve } from "../tests/server.mjs";

const [folder] = process.argv.slice(2);
const { origin } = await serve({ "/": folder });
console.log(`${origin}/demo/`);

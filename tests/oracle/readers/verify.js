const file = JSON.parse(require("fs").readFileSync(process.argv[2]));
const float = hex => new Float32Array(Uint32Array.of(parseInt(hex, 16)).buffer)[0];
const even = r => Math.abs(r % 1) === 0.5 ? 2 * Math.round(r / 2) : Math.round(r);
let right = 0, wrong = 0;
for (const { params: p, cases } of file.groups)
  for (const c of cases.filter(c => c.out)) {
    const r = even(Math.fround(float(c.in.x) / float(p.scale))) + p.zero_point;
    const got = Math.min(Math.max(r, p.qmin), p.qmax) & 255;
    if (got.toString(16).padStart(2, "0") === c.out.q) right++;
    else wrong++, console.log(`${c.id}: expected ${c.out.q}, got ${got.toString(16)}`);
  }
console.log(`${right} right, ${wrong} wrong`);
process.exitCode = wrong || !right ? 1 : 0;

// Amounts, times and names as people read them.

const number = new Intl.NumberFormat("en");
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });

export const count = (n) => number.format(n);

/** msat writes millisatoshi: below a satoshi as they are. */
export function msat(n) {
  if (Math.abs(n) < 1000) return `${number.format(n)} msat`;
  return `${fine.format(n / 1000)} sat`;
}

/** perToken writes millisatoshi for a million tokens as those for one. */
export const perToken = (n) => new Intl.NumberFormat("en", { maximumFractionDigits: 6 }).format(n / 1e6);

export const plural = (n, one, many = one + "s") => `${number.format(n)} ${n === 1 ? one : many}`;

export const short = (key, n = 8) => (key.length > n + 5 ? `${key.slice(0, n)}…${key.slice(-4)}` : key);

/** npub writes a public key, 64 hex digits, as people know it: bech32 of NIP-19. What is no key stays. */
export function npub(key) {
  if (!/^[0-9a-f]{64}$/.test(key ?? "")) return key;
  const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
  const words = [];
  let bits = 0;
  let held = 0;
  for (let i = 0; i < 64; i += 2) {
    held = (held << 8) | parseInt(key.slice(i, i + 2), 16);
    for (bits += 8; bits >= 5; bits -= 5) words.push((held >> (bits - 5)) & 31);
    held &= (1 << bits) - 1;
  }
  if (bits) words.push((held << (5 - bits)) & 31);
  let sum = 1;
  const head = [..."npub"].map((c) => c.charCodeAt(0));
  for (const v of [...head.map((c) => c >> 5), 0, ...head.map((c) => c & 31), ...words, 0, 0, 0, 0, 0, 0]) {
    const top = sum >>> 25;
    sum = ((sum & 0x1ffffff) << 5) ^ v;
    [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3].forEach((g, i) => (top >> i) & 1 && (sum ^= g));
  }
  for (let i = 0; i < 6; i++) words.push(((sum ^ 1) >> (5 * (5 - i))) & 31);
  return "npub1" + words.map((w) => letters[w]).join("");
}

export const bytes = (n) => (n < 10000 ? `${number.format(n)} bytes` : n < 1e7 ? `${number.format(Math.round(n / 1000))} kB` : `${fine.format(n / 1e6)} MB`);

export function when(ms) {
  const d = new Date(ms);
  const today = d.toDateString() === new Date().toDateString();
  return new Intl.DateTimeFormat(undefined, today ? { hour: "2-digit", minute: "2-digit" } : { dateStyle: "medium", timeStyle: "short" }).format(d);
}

export function seconds(s) {
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  return s < 86400 ? `${fine.format(Math.round(s / 360) / 10)} h` : plural(Math.floor(s / 86400), "day");
}

export const speed = (milli) => `${new Intl.NumberFormat("en", { maximumFractionDigits: milli < 100000 ? 1 : 0 }).format(milli / 1000)} tokens/s`;

/** chance writes a probability. */
export function chance(p) {
  if (p < 1e-6) return "below 0.0001 %";
  return `${new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(p * 100)} %`;
}

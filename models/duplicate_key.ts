/** An object or array that is open, and the key or index that was read in it last. */
type Bracket = { readonly keys: Set<string>; at: string } | { readonly keys: null; at: number };

/**
 * Finds a key that some object in a JSON text has twice. `JSON.parse` keeps the last of them and says nothing, so that
 * two readers of the same file could see different things.
 *
 * @param json Text that `JSON.parse` accepts.
 * @returns The path of the first such key, such as `messages.0.role`, or `null`.
 */
export function findDuplicateKey(json: string): string | null {
  const open: Bracket[] = [];
  const token = /["{}[\]]/g;
  const colon = /\s*:/y;
  for (let read = 0, found; (found = token.exec(json)) !== null; read = token.lastIndex) {
    const inside = open.at(-1);
    if (inside?.keys === null && found[0] !== "]") inside.at += json.slice(read, found.index).split(",").length - 1;
    if (found[0] === "{") open.push({ keys: new Set(), at: "" });
    else if (found[0] === "[") open.push({ keys: null, at: 0 });
    else if (found[0] !== '"') open.pop();
    else {
      const start = token.lastIndex;
      const end = endOfString(json, start);
      token.lastIndex = colon.lastIndex = end + 1;
      if (!colon.test(json)) continue;
      const content = json.slice(start, end);
      const key = content.includes("\\") ? JSON.parse(`"${content}"`) as string : content;
      if (inside === undefined || inside.keys === null) continue;
      inside.at = key;
      if (inside.keys.has(key)) return open.map(({ at }) => at).join(".");
      inside.keys.add(key);
    }
  }
  return null;
}

/**
 * The quotation mark that ends a string. One expression for the whole string would take a place on the stack for each of
 * its characters, of which there can be millions.
 */
function endOfString(json: string, start: number): number {
  for (let end = start;; end++) {
    end = json.indexOf('"', end);
    let slashes = 0;
    while (json[end - 1 - slashes] === "\\") slashes++;
    if (slashes % 2 === 0) return end;
  }
}

/**
 * Finds a key that some object in a JSON text has twice. `JSON.parse` keeps the last of them and says nothing, so that
 * two readers of the same file could see different things.
 *
 * @param json Text that `JSON.parse` accepts.
 * @returns The first such key, or `null`.
 */
export function findDuplicateKey(json: string): string | null {
  const open: (Set<string> | null)[] = []; // one for each bracket that is open; null for an array
  const token = /["{}[\]]/g;
  const colon = /\s*:/y;
  for (let found; (found = token.exec(json)) !== null;) {
    if (found[0] === "{") open.push(new Set());
    else if (found[0] === "[") open.push(null);
    else if (found[0] !== '"') open.pop();
    else {
      const start = token.lastIndex;
      const end = endOfString(json, start);
      token.lastIndex = colon.lastIndex = end + 1;
      if (!colon.test(json)) continue;
      const content = json.slice(start, end);
      const key = content.includes("\\") ? JSON.parse(`"${content}"`) as string : content;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
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

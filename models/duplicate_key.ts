/**
 * Finds a key that some object in a JSON text has twice. `JSON.parse` keeps the last of them and says nothing, so that
 * two readers of the same file could see different things.
 *
 * @param json Text that `JSON.parse` accepts.
 * @returns The first such key, or `null`.
 */
export function findDuplicateKey(json: string): string | null {
  const open: (Set<string> | null)[] = []; // one for each bracket that is open; null for an array
  const tokens = /"((?:[^"\\]|\\.)*)"(\s*:)?|[{}[\]]/gs;
  for (const [token, content, colon] of json.matchAll(tokens)) {
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(null);
    else if (token === "}" || token === "]") open.pop();
    else if (colon !== undefined) {
      const key = content!.includes("\\") ? JSON.parse(`"${content}"`) as string : content!;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return null;
}

/** Stands between texts in files that have it, and between stories in the training data. */
export const END_OF_TEXT = "<|endoftext|>";

/** Typographic quotes and dashes, and what becomes of them when UTF-8 is read as Windows-1252: plain ones. */
const PLAIN: readonly (readonly [RegExp, string])[] = [
  [/â€™|â€˜|[‘’]/g, "'"],
  [/â€œ|â€\u009d|â€�|[“”]/g, '"'],
  [/â€“|â€”|[–—]/g, "-"],
  [/â€¦|…/g, "..."],
  [/Ã©/g, "é"],
  [/Â|\uFEFF/g, ""],
];

/**
 * Cuts a file into stories.
 *
 * Where the file has `<|endoftext|>`, it stands between stories. Otherwise a blank line stands between paragraphs, and a
 * single line break between stories, unless what follows it begins with a quotation mark: then somebody just speaks.
 */
export function splitStories(text: string): string[] {
  const plain = PLAIN.reduce((result, [from, to]) => result.replace(from, to), text.replaceAll("\r\n", "\n"));
  const parts = plain.includes(END_OF_TEXT) ? plain.split(END_OF_TEXT) : plain.split(/(?<!\n)\n(?![\n"])/);
  return parts.map((story) => story.trim()).filter((story) => story !== "");
}

/** Groups of words that can change places throughout a story without harm to its sense or grammar. */
const INTERCHANGEABLE: readonly (readonly string[])[] = [
  "Lily Mia Sara Anna Lucy Sue Jane Amy Mary Emma Jill Daisy Ella Molly Sarah Kitty Lola Mimi Lisa Emily Sally".split(
    " ",
  ),
  "Tom Ben Timmy Tim Max Jack Bob Sam Joe John Billy Jimmy Bobby Tommy Peter Leo Fred Jim Johnny Charlie".split(" "),
  "red blue green yellow purple pink".split(" "),
];
const GROUP_OF = new Map(INTERCHANGEABLE.flatMap((group) => group.map((word) => [word, group] as const)));
const INTERCHANGEABLE_WORD = new RegExp(`\\b(?:${[...GROUP_OF.keys()].join("|")})\\b`, "g");

/**
 * The same story about others: its names and colours are each replaced by another one of their kind, the same throughout,
 * no two by the same.
 *
 * @param random Uniform in [0, 1).
 */
export function recast(story: string, random: () => number): string {
  const replacement = new Map<string, string>();
  const free = new Map(INTERCHANGEABLE.map((group) => [group, [...group]]));
  return story.replace(INTERCHANGEABLE_WORD, (word) => {
    let other = replacement.get(word);
    if (other === undefined) {
      const words = free.get(GROUP_OF.get(word)!)!;
      other = words.splice(Math.floor(random() * words.length), 1)[0]!;
      replacement.set(word, other);
    }
    return other;
  });
}

/**
 * Makes a function that cuts a text where no merge can ever reach across, so that byte-pair encoding the parts one by
 * one gives the same tokens as encoding the whole.
 *
 * Why it is the same: a token that spans a place has the two characters around it next to each other. Merges only make
 * the tokens in `merged`. So where no token of `merged` has that pair of characters inside, no merge ever spans the
 * place, and the merges on its two sides do not see each other.
 *
 * It is for tokenizers without pre-tokenization (SentencePiece's BPE), whose library encodes a text as one word: without
 * its cache of words, which only has room for short ones, and with a queue as long as the text.
 *
 * @param merged Every token that some merge makes.
 */
export function wordSplitter(merged: Iterable<string>): (text: string) => string[] {
  const inside = new Set<string>();
  for (const token of merged) {
    let before = "";
    for (const character of token) {
      if (before !== "") inside.add(before + character);
      before = character;
    }
  }
  return (text) => {
    const words: string[] = [];
    let start = 0;
    let end = 0;
    let before = "";
    for (const character of text) {
      if (before !== "" && !inside.has(before + character)) {
        words.push(text.slice(start, end));
        start = end;
      }
      end += character.length;
      before = character;
    }
    if (end > start) words.push(text.slice(start));
    return words;
  };
}

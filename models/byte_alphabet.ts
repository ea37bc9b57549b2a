/**
 * The characters that stand for the bytes 0 to 255 in GPT-2's byte-level vocabularies: bytes that are printable in
 * Latin-1 stand for themselves, the others, in order, are the characters from U+0100 on.
 */
export const BYTE_ALPHABET: readonly string[] = byteAlphabet();

function byteAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
}

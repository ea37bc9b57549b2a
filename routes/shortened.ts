/** A text of the caller's, cut where it is longer than we repeat. @param most UTF-16 code units. */
export function shortened(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most)}…`.toWellFormed();
}

/**
 * Pieces of text as a body, made as fast as they are read.
 *
 * @param onLeave Called when the reader leaves before the end. The pieces must not wait for much then.
 */
export function textStream(
  pieces: AsyncGenerator<string, void>,
  onLeave: () => void,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(encoder.encode(value));
    },
    async cancel() {
      onLeave();
      await pieces.return();
    },
  });
}

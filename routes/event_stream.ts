export interface ServerEvent {
  readonly event: string;
  readonly data: unknown;
}

/** Server-sent events with names as a body; see {@linkcode textStream}. */
export function eventStream(
  events: AsyncGenerator<ServerEvent, void>,
  onLeave: () => void,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  return textStream(
    (async function* () {
      // JSON has no line breaks of its own, so one data line holds it.
      for await (const { event, data } of events) yield `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
    })(),
    onLeave,
  );
}

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

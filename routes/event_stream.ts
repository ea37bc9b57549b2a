export interface ServerEvent {
  readonly event: string;
  readonly data: unknown;
}

/**
 * Server-sent events as a body, made as fast as they are read.
 *
 * @param onLeave Called when the reader leaves before the end. The events must not wait for much then.
 */
export function eventStream(
  events: AsyncGenerator<ServerEvent, void>,
  onLeave: () => void,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await events.next();
      if (done) controller.close();
      // JSON has no line breaks of its own, so one data line holds it.
      else controller.enqueue(encoder.encode(`event: ${value.event}\ndata: ${JSON.stringify(value.data)}\n\n`));
    },
    async cancel() {
      onLeave();
      await events.return();
    },
  });
}

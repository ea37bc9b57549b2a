import cliProgress from "cli-progress";

/** How often a log without a terminal gets a line. */
const LINE_EVERY_MS = 10_000;

/** Shows how far long work is and an estimate of what is left, on stderr: a bar in a terminal, lines in a log. */
export interface ProgressBar extends Disposable {
  /** @param share Of the whole work, 0 to 1. */
  update(share: number, label: string): void;
}

/** Opens a bar, or starts lines, under a title. */
export function progressBar(title: string): ProgressBar {
  return Deno.stderr.isTerminal() ? terminalBar(title) : logLines(title);
}

/** Changes nothing of the terminal, neither cursor nor line wrap: whoever is interrupted leaves it as it was. */
function terminalBar(title: string): ProgressBar {
  const text = `${title} {bar} {percentage} %  {duration_formatted}, {eta_formatted} left  {label}`;
  const bar = new cliProgress.SingleBar({
    // What does not fit into the line is left out: the next update could not overwrite a second one.
    format: (options: object, params: unknown, payload: unknown) =>
      cliProgress.Format.Formatter({ ...options, format: text }, params, payload).slice(0, columns() - 1),
    linewrap: true,
    etaBuffer: 50,
  }, cliProgress.Presets.shades_classic);
  const steps = 1000;
  bar.start(steps, 0, { label: "" });
  return {
    update: (share, label) => bar.update(Math.round(share * steps), { label }),
    [Symbol.dispose]: () => bar.stop(),
  };
}

function columns(): number {
  return Deno.consoleSize().columns;
}

function logLines(title: string): ProgressBar {
  const started = performance.now();
  let last = started;
  return {
    update(share, label) {
      const now = performance.now();
      if (now - last < LINE_EVERY_MS) return;
      last = now;
      const seconds = (now - started) / 1000;
      const left = share > 0 ? `, ${Math.round(seconds * (1 - share) / share)} s left` : "";
      console.error(`${title} ${Math.round(100 * share)} %  ${label}  ${Math.round(seconds)} s${left}`);
    },
    [Symbol.dispose]: () => {},
  };
}

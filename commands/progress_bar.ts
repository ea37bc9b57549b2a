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

function terminalBar(title: string): ProgressBar {
  const bar = new cliProgress.SingleBar({
    format: `${title} {bar} {percentage} %  {duration_formatted}, {eta_formatted} left  {label}`,
    hideCursor: true,
    etaBuffer: 50,
  }, cliProgress.Presets.shades_classic);
  const steps = 1000;
  bar.start(steps, 0, { label: "" });
  return {
    update: (share, label) => bar.update(Math.round(share * steps), { label }),
    [Symbol.dispose]: () => bar.stop(),
  };
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

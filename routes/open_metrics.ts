/**
 * Prometheus' text format as OpenMetrics: counters are described without `_total`, bounds of buckets are floats, blank
 * lines go, and an end is marked. A histogram with a bound below 0 loses its sum, which can fall as no counter does, and
 * with it its count, which goes only with a sum (the last bucket says the same): strict readers refuse the whole text
 * otherwise.
 *
 * prom-client can write OpenMetrics, but renames the counters of the registry when it does, for later scrapes too.
 *
 * @see https://prometheus.io/docs/specs/om/open_metrics_spec/
 */
export function openMetrics(text: string): string {
  const counters = new Set(text.matchAll(/^# TYPE (\S+)_total counter$/gm).map((match) => match[1]));
  const falling = new Set(text.matchAll(/^(\S+)_bucket\{.*\ble="-/gm).map((match) => match[1]));
  const isTold = (line: string) => line !== "" && !falling.has(/^(\S+?)_(?:sum|count)[{ ]/.exec(line)?.[1]);
  const lines = text.split("\n").filter(isTold).map((line) =>
    line
      .replace(/^(# \w+ )(\S+)_total /, (all, start, name) => counters.has(name) ? `${start}${name} ` : all)
      .replace(/([{,]le="-?\d+)"/, '$1.0"')
  );
  return `${lines.join("\n")}\n# EOF\n`;
}

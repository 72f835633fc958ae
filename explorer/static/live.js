/** What the server's own counts say of the time between two looks at them. */

/**
 * Figures of an interval.
 * @param {{images: number, buckets: [number | null, number][]}} before counts since the server started
 * @param {{images: number, buckets: [number | null, number][]}} now likewise, later
 * @param {number} seconds between the two
 * @returns {{rate: number, median: number | null, slow: number | null}} images a second; seconds within which half,
 *   and 99 of 100 of the calls were answered, or null where there were none
 */
export function between(before, now, seconds) {
  const restarted = now.images < before.images;
  const earlier = new Map(restarted ? [] : before.buckets);
  const buckets = now.buckets.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const images = now.images - (restarted ? 0 : before.images);
  return { rate: images / seconds, median: quantile(buckets, 0.5), slow: quantile(buckets, 0.99) };
}

/**
 * The value below which a share of the calls lies, straight between the bounds of its bucket, as Prometheus does it.
 * @param {[number | null, number][]} buckets upper bound and calls up to it; null is without bound
 * @param {number} share 0..1
 */
export function quantile(buckets, share) {
  const all = buckets.at(-1)?.[1] ?? 0;
  if (!all) return null;
  const wanted = share * all;
  const index = buckets.findIndex(([, count]) => count >= wanted);
  const [lower, below] = index ? buckets[index - 1] : [0, 0];
  const [upper, upTo] = buckets[index];
  return upper === null ? lower : lower + ((upper - lower) * (wanted - below)) / (upTo - below || 1);
}

import { activation } from "./activation.ts";
import { importance } from "./importance.ts";
import { magnitude } from "./magnitude.ts";
import type { Order, WholeOrder } from "./order.ts";
import { random } from "./random.ts";

const ORDERS = { importance, activation, magnitude, random } as const satisfies Readonly<Record<string, Order>>;

/** As recipes call them. */
export type OrderName = keyof typeof ORDERS;

/** What `orderOf()` knows. */
export const ORDER_NAMES = Object.keys(ORDERS) as OrderName[];

/** The order of a name; what it says nothing of is ordered by importance. */
export function orderOf(name: OrderName): WholeOrder {
  return { ...importance, ...ORDERS[name] };
}

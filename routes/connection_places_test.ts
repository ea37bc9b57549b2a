import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { ConnectionPlaces } from "./connection_places.ts";

/** As many places, taken by "a", "b" and so on. */
function taken(count: number): ConnectionPlaces<string> {
  const places = new ConnectionPlaces<string>(count);
  for (const name of "abcdefgh".slice(0, count)) equal(places.take(name), null);
  return places;
}

describe("ConnectionPlaces", () => {
  it("lets the one go that has been without a whole request for longest", () => {
    const places = taken(3);
    deepEqual(["x", "y", "z", "w"].map((name) => places.take(name)), ["a", "b", "c", "x"]);
  });

  it("counts from the last answer, or from where a request began", () => {
    const places = taken(3);
    places.works("a");
    places.waits("a");
    places.waits("b");
    deepEqual(["x", "y", "z"].map((name) => places.take(name)), ["c", "a", "b"]);
  });

  it("keeps those with a whole request, and closes the new one where all have one", () => {
    const places = taken(2);
    places.works("a");
    equal(places.take("x"), "b");
    places.works("x");
    equal(places.take("y"), "y");
    places.waits("a");
    equal(places.take("z"), "a");
  });

  it("has a place again when one leaves", () => {
    const places = taken(2);
    places.works("a");
    places.leave("a");
    equal(places.take("x"), null);
    equal(places.take("y"), "b");
  });

  it("knows nothing more of one that it let go", () => {
    const places = taken(1);
    equal(places.take("x"), "a");
    places.waits("a"); // its answer was on the way
    places.leave("a");
    equal(places.take("y"), "x");
  });
});

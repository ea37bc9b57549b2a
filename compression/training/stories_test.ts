import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, notEqual } from "node:assert/strict";
import { randomFor } from "./random.ts";
import { recast, splitStories } from "./stories.ts";

describe("splitStories()", () => {
  it("takes a single line break as the end of a story, a blank line as that of a paragraph", () => {
    deepEqual(splitStories("One.\n\nStill one.\nTwo.\n"), ["One.\n\nStill one.", "Two."]);
  });

  it("lets people speak after a line break", () => {
    deepEqual(splitStories('He said:\n"Hello."\nTwo.'), ['He said:\n"Hello."', "Two."]);
  });

  it("takes end-of-text marks where there are any", () => {
    deepEqual(splitStories("One.\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n"), ["One.\nStill one.", "Two."]);
  });

  it("makes quotes and dashes plain, those included that were read in a wrong encoding", () => {
    deepEqual(splitStories("It’s “on” – now… \r\nItâ€™s â€œoff"), ['It\'s "on" - now...', "It's \"off"]);
  });
});

describe("recast()", () => {
  const story = "Tom met Lily. Tom and Ben like the red cat; Tomas does not. Lily's cat is blue, not Red.";

  it("replaces each name and colour by one of its kind, the same throughout, and nothing else", () => {
    for (let seed = 0; seed < 20; seed++) {
      const other = recast(story, randomFor(seed, "recast"));
      const [, a, girl, a2, b, colour, girl2, colour2] =
        /^(\w+) met (\w+)\. (\w+) and (\w+) like the (\w+) cat; Tomas does not\. (\w+)'s cat is (\w+), not Red\.$/.exec(
          other,
        )!;
      equal(a, a2);
      equal(girl, girl2);
      notEqual(a, b);
      notEqual(colour, colour2);
      match(colour!, /^(red|blue|green|yellow|purple|pink)$/);
    }
  });

  it("tells it differently with different numbers, and the same with the same", () => {
    const told = Array.from({ length: 20 }, (_, seed) => recast(story, randomFor(seed, "recast")));
    equal(new Set(told).size > 10, true);
    equal(recast(story, randomFor(3, "recast")), told[3]);
  });
});

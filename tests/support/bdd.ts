/**
 * The part of `@std/testing/bdd` that our tests use, over `node:test`.
 *
 * The real module lives on JSR, which not every machine reaches; `deno task test:jsr` runs the same files with it.
 */
export { after as afterAll, afterEach, before as beforeAll, beforeEach, describe, it } from "node:test";

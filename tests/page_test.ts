import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { Service } from "./support/service.ts";

const CHROMIUM = "/usr/bin/chromium";
const FLAGS = [
  ...["--headless", "--no-sandbox", "--disable-gpu"],
  ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
];
const KEY = "a key for this test alone";

if (existsSync(CHROMIUM)) {
  describe("The page", () => {
    let service: Service;
    let browser: Browser;
    let url: string;

    beforeAll(async () => {
      service = await Service.start("--api-keys", KEY);
      url = `http://127.0.0.1:${service.port}`;
      browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
    });
    afterAll(async () => {
      await browser?.close();
      await service?.[Symbol.asyncDispose]();
    });

    /** A page of its own; `asked` are all addresses that it loads, `problems` what the browser complains of. */
    async function open(viewport: { width: number; height: number }) {
      const page = await browser.newPage({ viewport });
      const asked: string[] = [];
      const problems: string[] = [];
      page.on("request", (request) => asked.push(request.url()));
      page.on("pageerror", (error) => problems.push(error.message));
      page.on("console", (message) => {
        // Refusals are what the page is tested with.
        if (message.type() === "error" && !/401|413/.test(message.text())) problems.push(message.text());
      });
      await page.goto(url);
      return { page, asked, problems };
    }

    async function useKey(page: Page, key: string): Promise<void> {
      await page.getByLabel("API key").fill(key);
      await page.getByRole("button", { name: "Use it" }).click();
    }

    for (const viewport of [{ width: 1200, height: 900 }, { width: 360, height: 740 }]) {
      it(`asks for a key, streams an answer and shows the decision at ${viewport.width} pixels`, async () => {
        const { page, asked, problems } = await open(viewport);
        await useKey(page, "another key entirely");
        await page.getByText("That key was refused.").waitFor();
        await useKey(page, KEY);
        await page.getByRole("combobox", { name: "Pruning rate" }).selectOption("0.35");
        await page.getByLabel("Tokens, at most").fill("12");
        await page.getByLabel("Prompt", { exact: true }).fill("One day, a girl");
        await page.getByLabel("Prompt", { exact: true }).press("Control+Enter");
        await page.getByRole("status").filter({ hasText: /^12 tokens at pruning rate 35\s%/ }).waitFor({
          state: "attached",
        });

        match((await page.locator("#answer").textContent())!, /^One day, a girl.+/);
        const shares = await page.locator("#answer .tint").evaluateAll((spans) =>
          spans.map((span) =>
            (span as unknown as { style: { getPropertyValue(name: string): string } }).style
              .getPropertyValue("--share")
          )
        );
        ok(shares.length > 1 && shares.every((share) => share === "1.000"), shares.join());
        equal(await page.locator("#decision-rate").textContent(), "35\u00a0%");
        equal(await page.locator("#decision-reason").textContent(), "it was pinned");
        equal(await page.locator("#legend li.now").textContent(), "35\u00a0%");
        await page.locator("#requests-chart path.line-a[d^=M]").waitFor({ state: "attached" });
        const overflow = await page.evaluate("document.documentElement.scrollWidth - innerWidth");
        ok(Number(overflow) <= 0, `${overflow} pixels wider than the screen`);
        deepEqual([problems, asked.filter((one) => !one.startsWith(`${url}/`))], [[], []]);
        await page.close();
      });
    }

    it("says why a request is refused, and that an answer was stopped", async () => {
      const { page } = await open({ width: 1200, height: 900 });
      await useKey(page, KEY);
      await page.getByRole("combobox", { name: "Pruning rate" }).getByRole("option").nth(1).waitFor({
        state: "attached",
      });
      const whenMissed = page.getByRole("combobox", { name: "If it cannot fit" });
      ok(await whenMissed.isDisabled(), "there is no budget yet");
      await page.getByLabel("Latency budget").fill("0");
      await whenMissed.selectOption("degrade");
      await page.getByLabel("Tokens, at most").fill("511");
      await page.getByRole("button", { name: "Continue" }).click();
      match((await page.getByRole("alert").textContent())!, /511 more do not fit/);

      // An answer that does not come, so that there is something to stop.
      await page.route("**/generate", () => {});
      await page.getByRole("button", { name: "Continue" }).click();
      await page.getByRole("button", { name: "Stop" }).click();
      await page.getByRole("status").filter({ hasText: "Stopped." }).waitFor();
      ok(await page.getByRole("alert").isHidden(), "nothing went wrong");
      await page.close();
    });

    it("says what a key is made of before it sends one that no header takes", async () => {
      const { page, problems } = await open({ width: 1200, height: 900 });
      await useKey(page, "a key with a €");
      await page.getByText("A key has printable ASCII characters only.").waitFor();
      await useKey(page, KEY);
      await page.getByRole("combobox", { name: "Pruning rate" }).getByRole("option").nth(1).waitFor({
        state: "attached",
      });
      ok(await page.getByLabel("API key").isHidden(), "the key was taken");
      deepEqual(problems, []);
      await page.close();
    });

    it("says nothing of an answer that another follows", async () => {
      const { page, problems } = await open({ width: 1200, height: 900 });
      await useKey(page, KEY);
      // Answers that do not come.
      await page.route("**/generate", () => {});
      await page.getByRole("button", { name: "Continue" }).click();
      const aborted = page.waitForEvent("requestfailed");
      await page.getByRole("button", { name: "Continue" }).click();
      await aborted;
      // What follows the failure of the first request has been done when the page has an answer to another.
      await page.evaluate("fetch('/livez').then((response) => response.text())");
      equal(await page.locator("#said").textContent(), "");
      await page.getByRole("button", { name: "Stop" }).click();
      await page.getByRole("status").filter({ hasText: "Stopped." }).waitFor();
      deepEqual(problems, []);
      await page.close();
    });

    it("goes on to draw the load after a reading that broke off", async () => {
      const { page, problems } = await open({ width: 1200, height: 900 });
      await useKey(page, KEY);
      await page.evaluate(`{
        const { text } = Response.prototype;
        Response.prototype.text = function () {
          Response.prototype.text = text;
          return Promise.reject(new TypeError("network error"));
        };
      }`);
      await page.getByText("The service is not reached.").waitFor();
      await page.getByText("The service is not reached.").waitFor({ state: "hidden" });
      await page.locator("#requests-chart path.line-a[d^=M]").waitFor({ state: "attached" });
      deepEqual(problems, []);
      await page.close();
    });

    it("is documented by a page that runs no script", async () => {
      const { page, asked, problems } = await open({ width: 800, height: 600 });
      asked.length = 0;
      const response = await page.goto(`${url}/docs`);
      match(response!.headers()["content-security-policy"]!, /^default-src 'none'; script-src 'self'/);
      equal(await page.getByRole("heading", { name: "POST /v1/chat/completions" }).count(), 1);
      deepEqual([problems, asked.filter((one) => one.endsWith(".js"))], [[], []]);
      await page.close();
    });
  });
}

// Where rounds are played: one workerd, one container and one webhook for all of them, a new town for each.

import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { FakeForge } from "../support/fake-forge.mjs";
import { WebhookReceiver } from "../support/webhook-receiver.mjs";
import { Killer } from "./killer.mjs";
import { Round } from "./round.mjs";

export class Stage {
  /** Every death on this stage: {point, mode}. */
  deaths = [];
  /** A round failed here: its town is still at work. */
  #spoiled = false;

  static async open() {
    const stage = new Stage();
    await stage.#build();
    return stage;
  }

  async #build() {
    this.fake = await FakeContainer.start();
    this.receiver = await WebhookReceiver.start();
    this.forge = await FakeForge.start();
    this.harness = await Harness.start({ container: this.fake, clock: "real", vars: { TEST_WATCH: "1", GITHUB_API_URL: this.forge.url } });
    this.fake.apiUrl = this.harness.url;
    this.killer = new Killer(this.harness, this.deaths);
    this.#spoiled = false;
  }

  /** Plays a round; what went wrong tells how to play it again, and what happened. */
  async play({ seed, acts }) {
    if (this.#spoiled) {
      await this.close();
      await this.#build();
    }
    const { harness, killer, fake, receiver, forge } = this;
    const round = new Round({ seed, harness, killer, fake, receiver, forge });
    try {
      await round.play(acts);
    } catch (error) {
      this.#spoiled = true;
      error.message = `seed ${seed}: ${error.message}\n${round.log.join("\n")}`;
      throw error;
    }
    return round;
  }

  async close() {
    await this.harness.stop();
    await this.fake.kill();
    await this.receiver.stop();
    await this.forge.stop();
  }
}

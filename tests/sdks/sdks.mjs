// Signs and verifies with the providers' own SDKs. Standard input: a JSON array of {provider, secret, url, headers, body}, made by payonce.
// Standard output: the same array, each with `verified` (by the SDK), and, where the SDK can sign, `signed`: {headers, body}.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const require = createRequire(process.cwd() + "/");
const Stripe = require("stripe");
const adyen = require("@adyen/api-library");
const Razorpay = require("razorpay");
const { WebhooksHelper } = require("square");
const { Webhook } = require("standardwebhooks");

const stripe = new (Stripe.default ?? Stripe)("sk_test_x");
const HmacValidator = adyen.hmacValidator ?? adyen.default?.hmacValidator;
const hmac = new HmacValidator();

async function one({ provider, secret, url, headers, body }) {
    switch (provider) {
        case "stripe": {
            const event = stripe.webhooks.constructEvent(body, headers["stripe-signature"], secret);
            const header = stripe.webhooks.generateTestHeaderString({ payload: body, secret });
            return { verified: event.object === "event", signed: { headers: { "stripe-signature": header }, body } };
        }
        case "adyen": {
            const all = JSON.parse(body);
            const item = all.notificationItems[0].NotificationRequestItem;
            const verified = hmac.validateHMAC(item, secret);
            item.additionalData.hmacSignature = hmac.calculateHmac(item, secret);
            return { verified, signed: { headers: {}, body: JSON.stringify(all) } };
        }
        case "razorpay":
            return { verified: Razorpay.validateWebhookSignature(body, headers["x-razorpay-signature"], secret) };
        case "square": {
            const signatureHeader = headers["x-square-hmacsha256-signature"];
            const asked = { requestBody: body, signatureHeader, signatureKey: secret, notificationUrl: url };
            return { verified: await WebhooksHelper.verifySignature(asked) };
        }
        case "standard-webhooks": {
            const webhook = new Webhook(secret);
            const verified = webhook.verify(body, headers) !== undefined;
            const now = new Date();
            const id = headers["webhook-id"];
            const signed = {
                "webhook-id": id,
                "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
                "webhook-signature": webhook.sign(id, now, body),
            };
            return { verified, signed: { headers: signed, body } };
        }
        default:
            throw new Error(`no SDK for ${provider}`);
    }
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const answers = [];
for (const each of asked) {
    answers.push({ provider: each.provider, ...(await one(each)) });
}
console.log(JSON.stringify(answers));

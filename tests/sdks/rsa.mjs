// Notifications of the providers that sign with RSA, made with keys that live as long as this process, and verified by the providers' SDKs. Standard
// output: a JSON array of {provider, verified, secrets, files, headers, body, is_money}: what an endpoint needs to take each,
// and whether it becomes a callback.
import { createCipheriv, createSign, generateKeyPairSync } from "node:crypto";
import { createRequire } from "node:module";
const require = createRequire(process.cwd() + "/");
const alipay = require("alipay-sdk");
const WxPay = require("wechatpay-node-v3");

const keys = () =>
    generateKeyPairSync("rsa", {
        modulusLength: 2048,
        publicKeyEncoding: { type: "spki", format: "pem" },
        privateKeyEncoding: { type: "pkcs8", format: "pem" },
    });
const sign = (text, key) => createSign("RSA-SHA256").update(text, "utf8").sign(key, "base64");
const bare = (pem) => pem.replace(/-----[^-]+-----|\s/g, "");

function ofAlipay() {
    const pair = keys();
    const said = {
        app_id: "2021000000000001", charset: "utf-8", gmt_payment: "2025-11-25 18:00:03", notify_id: "n-1001",
        notify_type: "trade_status_sync", passback_params: "account_id=acct-1001", seller_id: "2088000000000001",
        subject: "a + b & c", total_amount: "19.99", trade_no: "2025112522001", trade_status: "TRADE_SUCCESS",
    };
    const text = Object.keys(said).sort().map((name) => `${name}=${said[name]}`).join("&");
    const notify = { ...said, sign: sign(text, pair.privateKey), sign_type: "RSA2" };
    const AlipaySdk = alipay.AlipaySdk ?? alipay.default;
    const sdk = new AlipaySdk({
        appId: said.app_id, privateKey: bare(pair.privateKey), keyType: "PKCS8", alipayPublicKey: bare(pair.publicKey),
    });
    return {
        provider: "alipay", verified: sdk.checkNotifySignV2(notify), secrets: bare(pair.publicKey), files: {},
        headers: { "content-type": "application/x-www-form-urlencoded" }, body: new URLSearchParams(notify).toString(), is_money: true,
    };
}

async function ofWeChat() {
    const pair = keys();
    const key = "0123456789abcdef0123456789abcdef";
    const id = "PUB_KEY_ID_0123456789012345678901234567890";
    const said = JSON.stringify({
        transaction_id: "4200001", out_trade_no: "o-1", mchid: "1900000001", appid: "wx1", trade_state: "SUCCESS",
        attach: "acct-1001", success_time: "2025-11-25T18:00:03+08:00", amount: { total: 1999, currency: "CNY" },
    });
    const cipher = createCipheriv("aes-256-gcm", key, "abcdefghijkl").setAAD(Buffer.from("transaction"));
    const sealed = Buffer.concat([cipher.update(said, "utf8"), cipher.final(), cipher.getAuthTag()]).toString("base64");
    const body = JSON.stringify({
        id: "EV-1001", create_time: "2025-11-25T18:00:04+08:00", event_type: "TRANSACTION.SUCCESS", resource_type: "encrypt-resource",
        resource: { algorithm: "AEAD_AES_256_GCM", ciphertext: sealed, nonce: "abcdefghijkl", associated_data: "transaction" },
    });
    const timestamp = String(Math.floor(Date.now() / 1000));
    const signature = sign(`${timestamp}\n5f\n${body}\n`, pair.privateKey);
    const Pay = WxPay.default ?? WxPay;
    Pay.certificates = { [id]: pair.publicKey };
    const sdk = new Pay({
        appid: "wx1", mchid: "1900000001", publicKey: Buffer.from(pair.publicKey), privateKey: Buffer.from(pair.privateKey), key,
        serial_no: id,
    });
    const opened = sdk.decipher_gcm(sealed, "transaction", "abcdefghijkl", key);
    const right = await sdk.verifySign({ timestamp, nonce: "5f", body, serial: id, signature, apiSecret: key });
    return {
        provider: "wechatpay", verified: right && opened.amount.total === 1999, secrets: `apiv3_key = ${key}\npublic_key = ${id} wechat.pem`,
        files: { "wechat.pem": pair.publicKey },
        headers: {
            "wechatpay-timestamp": timestamp, "wechatpay-nonce": "5f", "wechatpay-signature": signature, "wechatpay-serial": id,
            "wechatpay-signature-type": "WECHATPAY2-SHA256-RSA2048",
        },
        body, is_money: true,
    };
}

console.log(JSON.stringify([ofAlipay(), await ofWeChat()]));

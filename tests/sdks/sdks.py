# Signs and verifies with the providers' own SDKs for Python. Standard input: a JSON array of {provider, secret, url, headers, body}, made by
# payonce. Standard output: the same array, each with `verified` (by the SDK), and, where the SDK can sign, `signed`: {headers, body}.
import datetime
import json
import sys
import time

import razorpay
import standardwebhooks
import stripe
from Adyen.util import generate_notification_sig, is_valid_hmac_notification
from square.utils.webhooks_helper import verify_signature


def of_stripe(asked):
    body, secret = asked["body"], asked["secret"]
    event = stripe.Webhook.construct_event(body, asked["headers"]["stripe-signature"], secret)
    now = int(time.time())
    tag = stripe.WebhookSignature._compute_signature(f"{now}.{body}", secret)
    return event["object"] == "event", {"headers": {"stripe-signature": f"t={now},v1={tag}"}, "body": body}


def of_adyen(asked):
    everything = json.loads(asked["body"])
    item = everything["notificationItems"][0]["NotificationRequestItem"]
    verified = is_valid_hmac_notification(item, asked["secret"])
    item["additionalData"]["hmacSignature"] = generate_notification_sig(item, asked["secret"]).decode()
    return verified, {"headers": {}, "body": json.dumps(everything)}


def of_razorpay(asked):
    utility = razorpay.Client(auth=("key", "secret")).utility
    return utility.verify_webhook_signature(asked["body"], asked["headers"]["x-razorpay-signature"], asked["secret"]), None


def of_square(asked):
    verified = verify_signature(
        request_body=asked["body"], signature_header=asked["headers"]["x-square-hmacsha256-signature"],
        signature_key=asked["secret"], notification_url=asked["url"],
    )
    return verified, None


def of_standard_webhooks(asked):
    webhook = standardwebhooks.Webhook(asked["secret"])
    body, id = asked["body"], asked["headers"]["webhook-id"]
    verified = webhook.verify(body, asked["headers"]) is not None
    now = datetime.datetime.now(datetime.timezone.utc)
    headers = {
        "webhook-id": id, "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign(id, now, body),
    }
    return verified, {"headers": headers, "body": body}


SDKS = {
    "stripe": of_stripe, "adyen": of_adyen, "razorpay": of_razorpay, "square": of_square,
    "standard-webhooks": of_standard_webhooks,
}
answers = []
for asked in json.load(sys.stdin):
    verified, signed = SDKS[asked["provider"]](asked)
    answers.append({"provider": asked["provider"], "verified": bool(verified)} | ({"signed": signed} if signed else {}))
json.dump(answers, sys.stdout)

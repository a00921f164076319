# Notifications of providers that sign with RSA, or that payonce makes no samples of, with keys that live as long as this process, made or
# verified by the providers' SDKs for Python. Standard output: a JSON array of {provider, verified, secrets, files, headers, body, is_money}: what
# an endpoint needs to take each, and whether it becomes a callback.
import base64
import datetime
import hashlib
import hmac
import json
import sys
import time
import urllib.parse

import braintree
import gocardless_pro.webhooks
from alipay.aop.api.util.SignatureUtils import get_sign_content, sign_with_rsa2, verify_with_rsa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paypalrestsdk.notifications import WebhookEvent
from wechatpayv3 import WeChatPay, WeChatPayType

FORM = {"content-type": "application/x-www-form-urlencoded"}


def key_pair():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, public.decode()


def pem(key, form):
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def bare(text):
    return "".join(line for line in text.splitlines() if not line.startswith("-----"))


def sign(key, text):
    return base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()


def of_alipay():
    key, public = key_pair()
    said = {
        "app_id": "2021000000000001", "charset": "utf-8", "gmt_payment": "2025-11-25 18:00:03", "notify_id": "n-1001",
        "notify_type": "trade_status_sync", "passback_params": "account_id=acct-1001", "seller_id": "2088000000000001",
        "body": "{&quot;a&quot;:&quot;1=2%2B&quot;}", "empty": "", "subject": " 充值 a + b & c ", "total_amount": "19.99", "trade_no": "2025112522001", "trade_status": "TRADE_SUCCESS",
    }
    text = get_sign_content(said)
    signature = sign_with_rsa2(bare(pem(key, serialization.PrivateFormat.TraditionalOpenSSL)), text, "utf-8")
    verified = verify_with_rsa(bare(public), text.encode(), signature)
    body = urllib.parse.urlencode(said | {"sign": signature, "sign_type": "RSA2"})
    return {"provider": "alipay", "verified": verified, "secrets": bare(public), "files": {}, "headers": FORM, "body": body, "is_money": True}


def of_wechat():
    key, public = key_pair()
    apiv3, id = "0123456789abcdef0123456789abcdef", "PUB_KEY_ID_0123456789012345678901234567890"
    said = {
        "transaction_id": "4200001", "out_trade_no": "o-1", "mchid": "1900000001", "appid": "wx1", "trade_state": "SUCCESS",
        "attach": "acct-1001", "success_time": "2025-11-25T18:00:03+08:00", "amount": {"total": 1999, "currency": "CNY"},
    }
    sealed = AESGCM(apiv3.encode()).encrypt(b"abcdefghijkl", json.dumps(said).encode(), b"transaction")
    resource = {
        "algorithm": "AEAD_AES_256_GCM", "ciphertext": base64.b64encode(sealed).decode(), "nonce": "abcdefghijkl",
        "associated_data": "transaction",
    }
    body = json.dumps({
        "id": "EV-1001", "create_time": "2025-11-25T18:00:04+08:00", "event_type": "TRANSACTION.SUCCESS",
        "resource_type": "encrypt-resource", "resource": resource,
    })
    timestamp = str(int(time.time()))
    headers = {
        "Wechatpay-Timestamp": timestamp, "Wechatpay-Nonce": "5f", "Wechatpay-Serial": id,
        "Wechatpay-Signature": sign(key, f"{timestamp}\n5f\n{body}\n"), "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
    }
    sdk = WeChatPay(
        WeChatPayType.JSAPI, mchid="1900000001", private_key=bare(pem(key, serialization.PrivateFormat.PKCS8)), cert_serial_no="0",
        apiv3_key=apiv3, appid="wx1", public_key=public, public_key_id=id,
    )
    said_to_sdk = sdk.callback(headers, body)
    verified = said_to_sdk is not None and said_to_sdk["resource"]["amount"]["total"] == 1999
    secrets = f"apiv3_key = {apiv3}\npublic_key = {id} wechat.pem"
    return {"provider": "wechatpay", "verified": verified, "secrets": secrets, "files": {"wechat.pem": public}, "headers": headers, "body": body, "is_money": True}


# Its verification wants a function that pyOpenSSL has no more: what is signed is the SDK's, the arithmetic is not.
def of_paypal():
    key, _ = key_pair()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "messageverificationcerts.paypal.com")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day).sign(key, hashes.SHA256())
    body = json.dumps({
        "id": "WH-1001", "event_type": "PAYMENT.CAPTURE.COMPLETED", "create_time": "2025-11-25T10:00:03Z",
        "resource": {"id": "C1", "custom_id": "acct-1001", "amount": {"value": "19.99", "currency_code": "EUR"}},
    })
    text = WebhookEvent._get_expected_sig("T1", "2025-11-25T10:00:04Z", "W1", body)
    headers = {
        "paypal-transmission-id": "T1", "paypal-transmission-time": "2025-11-25T10:00:04Z", "paypal-transmission-sig": sign(key, text),
        "paypal-cert-url": "https://api.paypal.com/v1/notifications/certs/CERT-1", "paypal-auth-algo": "SHA256withRSA",
    }
    files = {"paypal.pem": certificate.public_bytes(serialization.Encoding.PEM).decode()}
    return {"provider": "paypal", "verified": True, "secrets": "webhook_id = W1\ncertificate = paypal.pem", "files": files, "headers": headers, "body": body, "is_money": True}


def of_braintree():
    gateway = braintree.BraintreeGateway(braintree.Configuration(braintree.Environment.Sandbox, "m", public_key="public", private_key="private"))
    made = gateway.webhook_testing.sample_notification(braintree.WebhookNotification.Kind.TransactionSettled, "t1")
    parsed = gateway.webhook_notification.parse(made["bt_signature"], made["bt_payload"].decode())
    secrets = "public_key = public\nprivate_key = private"
    return {"provider": "braintree", "verified": parsed.kind == "transaction_settled", "secrets": secrets, "files": {}, "headers": FORM, "body": urllib.parse.urlencode(made), "is_money": False}


def of_gocardless():
    secret = "gocardless-secret"
    body = json.dumps({"events": [{
        "id": "EV1", "created_at": "2025-11-25T10:00:03Z", "resource_type": "payments", "action": "confirmed", "links": {"payment": "PM1"},
    }]})
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    events = gocardless_pro.webhooks.parse(body, secret, signature)
    headers = {"content-type": "application/json", "webhook-signature": signature}
    return {"provider": "gocardless", "verified": len(events) == 1, "secrets": secret, "files": {}, "headers": headers, "body": body, "is_money": False}


json.dump([of_alipay(), of_wechat(), of_paypal(), of_braintree(), of_gocardless()], sys.stdout)

// Verifies captured deliveries with Node's public packages and, for the other
// dialects, with their documented snippets. Argument: a file with one a line.

import crypto from 'node:crypto'
import fs from 'node:fs'
import readline from 'node:readline'
import * as standardwebhooks from 'standardwebhooks'
import * as svix from 'svix'

const named = (headers, prefix) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith(prefix)))

const hex = (secret, body) => crypto.createHmac('sha256', secret).update(body).digest('hex')

function same(signature, expected) {
  const [a, b] = [Buffer.from(signature ?? ''), Buffer.from(expected)]
  if (a.length !== b.length || !crypto.timingSafeEqual(a, b)) throw new Error('the signature does not match')
}

const verify = {
  standard({ body, headers, secret }) {
    new standardwebhooks.Webhook(secret).verify(body, named(headers, 'webhook-'))
    new svix.Webhook(secret).verify(body, named(headers, 'svix-'))
  },
  avycenna: ({ body, headers, secret }) => same(headers['x-avycenna-signature'], `sha256=${hex(secret, body)}`),
  avon: ({ body, headers, secret }) => same(headers['avon-signature'], hex(secret, body)),
  azodha: ({ body, headers, secret }) => same(headers['x-azodha-signature'], hex(secret, body)),
  // No package of npm's verifies v1a; Node's own ed25519 does. The secret is the public key.
  v1a({ body, headers, secret }) {
    const x = Buffer.from(secret.replace(/^whpk_/, ''), 'base64').toString('base64url')
    const key = crypto.createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
    const text = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`
    const [version, signature] = headers['webhook-signature'].split(',')
    const genuine = crypto.verify(null, Buffer.from(text), key, Buffer.from(signature, 'base64'))
    if (version !== 'v1a' || !genuine) throw new Error('the signature does not match')
  },
}

const counts = {}
for await (const line of readline.createInterface({ input: fs.createReadStream(process.argv[2]) })) {
  const delivery = JSON.parse(line)
  const { dialect } = delivery
  try {
    verify[dialect](delivery)
  } catch (fault) {
    console.log(`FAILED: ${dialect}, ${delivery.headers['webhook-id']}: ${fault.message}`)
    process.exit(1)
  }
  let refused = false
  try {
    verify[dialect]({ ...delivery, body: delivery.body + ' ' })
  } catch {
    refused = true
  }
  if (!refused) {
    console.log(`FAILED: ${dialect}: a changed body verifies`)
    process.exit(1)
  }
  counts[dialect] = (counts[dialect] ?? 0) + 1
}

for (const dialect of Object.keys(verify)) {
  if (!counts[dialect] && dialect === 'v1a') {
    console.log('skipped: v1a in Node, the server does not sign with it')
    continue
  }
  if (!counts[dialect]) {
    console.log(`FAILED: no delivery of ${dialect}`)
    process.exit(1)
  }
  console.log(`ok: ${counts[dialect]} deliveries of ${dialect} verify in Node, and not once changed`)
}

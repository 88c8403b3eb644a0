/* test_join.c - the proofs of the join token, against values made by another HMAC. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proto/join.h"

/*
 * By Python:
 *   import hmac, hashlib, struct
 *   s, n, i = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 80))
 *   def t(x): return struct.pack(">H", len(x)) + x
 *   rest = s + n + t(b"box1") + i + t(b"10.0.0.5") + struct.pack(">H", 8443)
 *   hmac.new(b"secret", b"drover.v1 join\0" + rest, hashlib.sha256).hexdigest()
 */
static const char join_hex[] =
    "02a39b7d555b08aaace01453fc8e07d44f5d99f7fc35e6714acb4c234b6fdb43";
static const char coordinator_hex[] =
    "ee28a9cb38b7a61852094ebda245bcf132368eff84ba6f690b9bb94ad991eabd";
static const char call_hex[] =
    "51e3f1be65cfb954223201b10ea6bfeb8fe19510ae71ec9c9e3fb7c8b9415915";

static struct join_facts make_facts(void)
{
    struct join_facts facts = {.node_id = "box1", .host = "10.0.0.5", .port = 8443};
    unsigned i;

    for (i = 0; i < 32; i++) {
        facts.server_nonce[i] = (uint8_t)i;
        facts.node_nonce[i] = (uint8_t)(32 + i);
    }
    for (i = 0; i < 16; i++)
        facts.instance_id[i] = (uint8_t)(64 + i);
    return facts;
}

static void check(const uint8_t proof[JOIN_PROOF_BYTES], const char *hex)
{
    char text[2 * JOIN_PROOF_BYTES + 1];
    unsigned i;

    for (i = 0; i < JOIN_PROOF_BYTES; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", proof[i]);
    cr_expect_str_eq(text, hex);
}

Test(join, proofs_are_the_documented_hmacs)
{
    struct join_facts facts = make_facts();
    uint8_t proof[JOIN_PROOF_BYTES];

    join_proof(proof, "secret", &facts);
    check(proof, join_hex);
    join_coordinator_proof(proof, "secret", &facts);
    check(proof, coordinator_hex);
    join_call_proof(proof, "secret", facts.instance_id);
    check(proof, call_hex);
}

Test(join, every_fact_changes_the_proof)
{
    struct join_facts facts = make_facts(), other;
    uint8_t proof[JOIN_PROOF_BYTES], changed[JOIN_PROOF_BYTES];
    unsigned i;

    join_proof(proof, "secret", &facts);
    for (i = 0; i < 6; i++) {
        other = facts;
        if (i == 0)
            other.server_nonce[31] ^= 1;
        else if (i == 1)
            other.node_nonce[0] ^= 1;
        else if (i == 2)
            other.instance_id[15] ^= 1;
        else if (i == 3)
            other.node_id = "box";
        else if (i == 4)
            other.host = "10.0.0.6";
        else
            other.port++;
        join_proof(changed, "secret", &other);
        cr_expect_not(join_equal(changed, proof), "fact %u", i);
    }
    join_proof(changed, "secret2", &facts);
    cr_expect_not(join_equal(changed, proof));
    join_proof(changed, "secret", &facts);
    cr_expect(join_equal(changed, proof));
}

Test(join, text_cannot_slide_from_one_field_into_the_next)
{
    struct join_facts a = make_facts(), b = make_facts();
    uint8_t one[JOIN_PROOF_BYTES], two[JOIN_PROOF_BYTES];

    memset(a.instance_id, 'x', sizeof(a.instance_id));
    memset(b.instance_id, 'x', sizeof(b.instance_id));
    a.node_id = "ax";
    b.node_id = "axx";
    join_proof(one, "secret", &a);
    join_proof(two, "secret", &b);
    cr_assert_not(join_equal(one, two));
}

/* test_join_request.c - a node that joins must name itself and prove a token. */
#include "health/registry/join_request.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/un.h>

#include "base/error.h"
#include "proto/join.h"

static uint8_t instance[JOIN_INSTANCE_BYTES] = {1}, nonce[JOIN_NONCE_BYTES] = {2};
static uint8_t proof[JOIN_PROOF_BYTES] = {3};
static char node_id[] = "box-1", host[] = "10.0.0.5";

static Drover__V1__Register claim(void)
{
    Drover__V1__Register said = DROVER__V1__REGISTER__INIT;

    said.node_id = node_id;
    said.host = host;
    said.port = 9100;
    said.instance_id = (ProtobufCBinaryData){sizeof(instance), instance};
    said.node_nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
    said.join_proof = (ProtobufCBinaryData){sizeof(proof), proof};
    return said;
}

Test(join_request, a_claim_of_the_right_form_gives_what_the_proof_is_about)
{
    Drover__V1__Register said = claim();
    struct join_facts facts = {0};

    cr_assert_null(join_request_facts(&facts, &said));
    cr_assert_str_eq(facts.node_id, "box-1");
    cr_assert_str_eq(facts.host, "10.0.0.5");
    cr_assert_eq(facts.port, 9100);
    cr_assert_eq(memcmp(facts.instance_id, instance, sizeof(instance)), 0);
}

Test(join_request, every_field_of_the_wrong_form_is_named)
{
    struct join_facts facts = {0};
    static const char *const wrong[] = {"node_id", "instance_id", "node_nonce", "join_proof",
                                        "port",    "port",        "host"};

    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        Drover__V1__Register said = claim();
        char long_host[200] = "";
        const char *why;

        memset(long_host, 'h', sizeof(long_host) - 1);
        switch (i) {
        case 0:
            said.node_id = (char *)(uintptr_t) "no name";
            break;
        case 1:
            said.instance_id.len--;
            break;
        case 2:
            said.node_nonce.len++;
            break;
        case 3:
            said.join_proof.len = 0;
            break;
        case 4:
            said.port = 0;
            break;
        case 5:
            said.port = 65536;
            break;
        default:
            said.host = long_host;
            break;
        }
        why = join_request_facts(&facts, &said);
        cr_assert_not_null(why, "%s", wrong[i]);
        cr_assert_eq(strncmp(why, wrong[i], strlen(wrong[i])), 0, "%s: %s", wrong[i], why);
    }
}

Test(join_request, either_token_may_be_proven_and_no_other)
{
    char newest[] = "the-newest-token", older[] = "the-older-token";
    char *const both[] = {newest, older}, *const none[] = {NULL, NULL};
    Drover__V1__Register said = claim();
    struct join_facts facts = {0};
    uint8_t shown[JOIN_PROOF_BYTES];

    cr_assert_null(join_request_facts(&facts, &said));
    join_proof(shown, newest, &facts);
    cr_assert_eq(join_request_token(both, &facts, shown), newest);
    cr_assert_null(join_request_token(none, &facts, shown));
    join_proof(shown, older, &facts);
    cr_assert_eq(join_request_token(both, &facts, shown), older);
    join_proof(shown, "another-token", &facts);
    cr_assert_null(join_request_token(both, &facts, shown));
}

static const char *address_of(const char *said_host, const char *peer_text)
{
    static char text[NET_TEXT_BYTES];
    Drover__V1__Register said = claim();
    struct net_addr out, peer = {0};
    struct error err = {0};

    cr_assert_eq(net_parse(&peer, peer_text, &err), 0, "%s", err.text);
    said.host = (char *)(uintptr_t)said_host;
    if (join_request_address(&out, &said, &peer, &err) != 0)
        return NULL;
    net_format(text, sizeof(text), &out);
    return text;
}

Test(join_request, the_address_is_what_the_node_says_or_where_it_comes_from)
{
    cr_assert_str_eq(address_of("10.0.0.5", "10.9.9.9:40000"), "10.0.0.5:9100");
    cr_assert_str_eq(address_of("", "10.9.9.9:40000"), "10.9.9.9:9100");
    cr_assert_str_eq(address_of("::1", "10.9.9.9:40000"), "[::1]:9100");
    cr_assert_str_eq(address_of("", "[::1]:40000"), "[::1]:9100");
    cr_assert_null(address_of("not an address", "10.9.9.9:40000"));
}

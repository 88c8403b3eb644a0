/* test_options.c - the command line, the token file, and which headers pass. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "node/engine/headers.h"
#include "node/options.h"

static int parse(struct options *o, struct error *err, const char *a, const char *b,
                 const char *c, const char *d)
{
    char *argv[] = {(char *)(uintptr_t) "drover-node",
                    (char *)(uintptr_t)a,
                    (char *)(uintptr_t)b,
                    (char *)(uintptr_t)c,
                    (char *)(uintptr_t)d,
                    NULL};
    int argc = 1;

    while (argv[argc] != NULL)
        argc++;
    return options_parse(o, argc, argv, err);
}

Test(options, an_engine_is_enough)
{
    struct options o;

    cr_assert_eq(parse(&o, NULL, "--engine", "http://127.0.0.1:8080", NULL, NULL), 0);
    cr_assert_str_eq(o.listen, "0.0.0.0:9090");
    cr_assert_eq(o.queue, -1);
    cr_assert_eq(o.drain_timeout_s, 60);
    cr_assert_neq(o.name[0], '\0');
    cr_assert_not(o.resume_ids);
    cr_assert_eq(parse(&o, NULL, "--engine", "http://a", "--resume-ids", NULL), 0);
    cr_assert(o.resume_ids);
    cr_assert_eq(o.look_every_s, 0, "by the engine's kind and address");
    cr_assert_eq(parse(&o, NULL, "--engine", "http://a", "--look-every", "30"), 0);
    cr_assert_eq(o.look_every_s, 30);
    cr_assert_neq(parse(&o, NULL, "--engine", "http://a", "--look-every", "0"), 0);
}

Test(options, coordinators_add_up)
{
    struct options o;

    cr_assert_eq(parse(&o, NULL, "--engine=http://a", "--coordinator=a:1",
                       "--coordinator=[::1]:2", "--queue=0"),
                 0);
    cr_assert_eq(o.coordinators_count, 2);
    cr_assert_str_eq(o.coordinators[1], "[::1]:2");
    cr_assert_eq(o.queue, 0);
}

Test(options, a_tilde_and_a_url_are_what_they_mean)
{
    struct options o;
    struct error err;

    cr_assert_eq(setenv("HOME", "/home/ann", 1), 0);
    cr_assert_eq(parse(&o, NULL, "--engine=http://a", "--token-file=~/token",
                       "--coordinator=http://desk:8082/", "--listen=http://[::1]:0"),
                 0);
    cr_assert_str_eq(o.token_file, "/home/ann/token");
    cr_assert_str_eq(o.coordinators[0], "desk:8082");
    cr_assert_str_eq(o.listen, "[::1]:0");
    cr_assert_eq(parse(&o, NULL, "--engine=http://a", "--coordinator=https://desk:8082",
                       "--coordinator-tls-ca=ca.pem", "--log-file=~"),
                 0);
    cr_assert_str_eq(o.coordinators[0], "desk:8082");
    cr_assert_str_eq(o.coordinator_tls_ca, "ca.pem");
    cr_assert_str_eq(o.log_file, "/home/ann");
    cr_assert_neq(
        parse(&o, &err, "--engine=http://a", "--coordinator=https://desk:8082", NULL, NULL), 0);
    cr_assert_not_null(strstr(err.text, "write desk:8082 and switch TLS on"), "%s", err.text);
    cr_assert_not_null(strstr(err.text, "--coordinator-tls-ca"), "%s", err.text);
    cr_assert_neq(
        parse(&o, &err, "--engine=http://a", "--coordinator=http://desk/", NULL, NULL), 0);
    cr_assert_not_null(strstr(err.text, "write desk:PORT"), "%s", err.text);
    cr_assert_neq(parse(&o, &err, "--engine=http://a", "--tls-ca=~bob/ca", NULL, NULL), 0);
    cr_assert_not_null(strstr(err.text, "--tls-ca"), "%s", err.text);
    cr_assert_eq(unsetenv("HOME"), 0);
    cr_assert_neq(parse(&o, &err, "--engine=http://a", "--token-file=~/t", NULL, NULL), 0);
    cr_assert_not_null(strstr(err.text, "HOME"), "%s", err.text);
}

Test(options, wrong_options_are_named)
{
    static const struct {
        const char *a, *b, *names;
    } cases[] = {
        {NULL, NULL, "--engine is missing"},
        {"--bogus", NULL, "--bogus"},
        {"--slots", NULL, "--slots"},
        {"--slots", "0", "--slots"},
        {"--slots", "4x", "4x"},
        {"--slots", "4-", "--slots"},
        {"--slots", "-4", "--slots"},
        {"--slots", "9-4", "9 is more than 4"},
        {"--slots", "1-2-3", "2-3"},
        {"--slots", "11111111111111111111-4", "MIN-MAX"},
        {"--queue", "-1", "--queue"},
        {"--listen", "nowhere", "--listen"},
        {"--coordinator", "host", "--coordinator"},
        {"--advertise", "my-host", "numeric"},
        {"--name", "a b", "--name"},
        {"--log-level", "loud", "loud"},
        {"--engine=http://x", "stray", "stray"},
        {"--engine=http://x", "--tls-cert=c", "--tls-key"},
        {"--engine=http://x", "--tls-ca=c", "--tls-ca"},
        {"--engine=sim:slots=2", NULL, "drover-sim --engine \"slots=2\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err = {0};
        struct options o;

        cr_assert_eq(parse(&o, &err, cases[i].a, cases[i].b, NULL, NULL), DRV_EINVAL,
                     "case %zu", i);
        cr_assert_not_null(strstr(err.text, cases[i].names), "case %zu: %s", i, err.text);
    }
}

static int read_tokens(const char *text, char out[TOKENS_MAX][TOKEN_MAX_BYTES + 1])
{
    char path[] = "/tmp/drover-token-XXXXXX";
    int fd = mkstemp(path), rc;

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    rc = options_read_tokens(out, path, NULL);
    (void)unlink(path);
    return rc;
}

Test(options, the_token_file_holds_one_or_two_tokens)
{
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1], longest[TOKEN_MAX_BYTES + 1];

    cr_assert_eq(read_tokens("new-token\n", tokens), 0);
    cr_assert_str_eq(tokens[0], "new-token");
    cr_assert_str_eq(tokens[1], "");
    cr_assert_eq(read_tokens("new-token\r\nold-token", tokens), 0);
    cr_assert_str_eq(tokens[0], "new-token");
    cr_assert_str_eq(tokens[1], "old-token");
    /* A node reads every token file that the coordinator reads. */
    cr_assert_eq(read_tokens("# of the nodes\n\n new-token \n#x\nold-token\n\n", tokens), 0);
    cr_assert_str_eq(tokens[0], "new-token");
    cr_assert_str_eq(tokens[1], "old-token");
    memset(longest, 'x', sizeof(longest));
    longest[TOKEN_MAX_BYTES] = '\0';
    cr_assert_eq(read_tokens(longest, tokens), 0);
    cr_assert_str_eq(tokens[0], longest);
}

Test(options, text_that_is_no_token_file_is_refused)
{
    static const char *const bad[] = {"",
                                      "\n\n",
                                      "# only words\n",
                                      "short-7\n",
                                      "two words\n",
                                      "new-token\nold token\n",
                                      "token-one\ntoken-two\ntoken-three\n",
                                      "tok\ten-of-tabs\n",
                                      "t\xf6ken-of-bytes\n"};
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1], text[8192];

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert_eq(read_tokens(bad[i], tokens), DRV_EINVAL, "case %zu", i);
    memset(text, 'x', sizeof(text));
    text[TOKEN_MAX_BYTES + 1] = '\0';
    cr_assert_eq(read_tokens(text, tokens), DRV_EINVAL, "a byte too long");
    text[TOKEN_MAX_BYTES + 1] = 'x';
    text[sizeof(text) - 1] = '\0';
    cr_assert_eq(read_tokens(text, tokens), DRV_EINVAL, "more than a token file");
}

Test(headers, credentials_cookies_and_conversation_ids_stay_here)
{
    static const char *const kept[] = {"authorization", "cookie",         "x-conversation-id",
                                       "host",          "content-length", "x-api-key"};

    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        cr_assert_not(headers_to_engine(kept[i], "v"), "%s", kept[i]);
    cr_assert(headers_to_engine("anthropic-beta", "v"));
    cr_assert(headers_to_engine("x-client-request-id", "v"));
    cr_assert(headers_to_engine("x-drover-via", "v"));
    cr_assert_not(headers_to_engine("x-request-id", "v"), "the node gives one of its own");
}

Test(headers, a_value_cannot_smuggle_a_line)
{
    cr_assert_not(headers_to_engine("anthropic-beta", "a\r\nx: y"));
    cr_assert_not(headers_to_engine("anthropic-beta\r\nx", "y"));
    cr_assert_not(headers_to_client("openai-model", "\xff"));
    cr_assert(headers_to_client("openai-model", "m"));
    cr_assert_not(headers_to_client("set-cookie", "a=b"));
}

Test(options, models_and_operations_are_named_outright_or_refused)
{
    struct error err = {0};
    struct options o;

    cr_assert_eq(parse(&o, NULL, "--engine", "http://a", "--model", "whisper-1"), 0);
    cr_assert_eq(o.models_count, 1);
    cr_assert_str_eq(o.models[0], "whisper-1");
    cr_assert_eq(parse(&o, NULL, "--engine", "http://a", "--operations", "messages,rerank"), 0);
    cr_assert_eq(o.operations, (1u << 5) | (1u << 6));
    cr_assert_neq(parse(&o, &err, "--engine", "http://a", "--operations", "messages,x"), 0);
    cr_assert_not_null(strstr(err.text, "\"x\""), "%s", err.text);
    cr_assert_neq(parse(&o, NULL, "--engine", "http://a", "--operations", ""), 0);
    cr_assert_neq(parse(&o, NULL, "--engine", "http://a", "--model", "a\nb"), 0);
    cr_assert_neq(parse(&o, NULL, "--engine", "http://a", "--engine-ca", "f"), 0, "no https");
    cr_assert_eq(parse(&o, NULL, "--engine", "https://a", "--engine-ca", "f"), 0);
}

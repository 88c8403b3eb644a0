/* test_describe.c - a difference that a description shows is a difference that is reported. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/kinds.h"
#include "base/text/buf.h"
#include "node/report/describe.h"
#include "proto/drover_inference.pb-c.h"

/* The description of these facts for a coordinator, as bytes. */
static void pack(struct buf *out, const struct engine_facts *facts)
{
    static struct describe d;
    Drover__V1__DescribeResponse message = DROVER__V1__DESCRIBE_RESPONSE__INIT;
    struct slot_limit limit;
    size_t n;

    memset(&d, 0, sizeof(d));
    slot_limit_init(&limit, 4, 4);
    describe_models(&d, facts);
    describe_capacity(&d.capacity, facts, &limit, 2, 1024);
    message.engine = (Drover__V1__EngineKind)facts->kind;
    message.engine_version = (char *)(uintptr_t)facts->version;
    message.capacity = &d.capacity;
    message.n_models = d.count;
    message.models = d.list;
    n = drover__v1__describe_response__get_packed_size(&message);
    cr_assert_not_null(buf_reserve(out, n));
    out->len += drover__v1__describe_response__pack(&message, out->data);
}

static bool described_alike(const struct engine_facts *a, const struct engine_facts *b)
{
    struct buf x = BUF_INIT, y = BUF_INIT;
    bool alike;

    pack(&x, a);
    pack(&y, b);
    alike = buf_size(&x) == buf_size(&y) && memcmp(x.data, y.data, buf_size(&x)) == 0;
    buf_finish(&x);
    buf_finish(&y);
    return alike;
}

/* Two models, into `out`: a struct of this size is nothing for a stack. */
static void example(struct engine_facts *out)
{
    static struct engine_facts facts;

    facts = (struct engine_facts){.kind = DROVER__V1__ENGINE_KIND__ENGINE_KIND_LLAMA_SERVER,
                                  .version = "b1",
                                  .reachable = true,
                                  .slots = 4,
                                  .prefill_tokens_per_s = 1000,
                                  .decode_tokens_per_s = 50,
                                  .models_count = 2};

    facts.models[0] = (struct engine_model){.id = "tiny",
                                            .state = 1,
                                            .max_context = 2048,
                                            .operations = 6,
                                            .load_ms = 10,
                                            .vocabulary = 7};
    facts.models[1] = facts.models[0];
    (void)strlcpy(facts.models[1].id, "small", sizeof(facts.models[1].id));
    facts.models[1].alias_of = 1;
    *out = facts;
}

/* Checks both directions: what is described must differ, and what is not must not. */
#define EXPECT_AS_DESCRIBED(change)                                                      \
    do {                                                                                 \
        static struct engine_facts a, b;                                                 \
                                                                                         \
        example(&a);                                                                     \
        example(&b);                                                                     \
                                                                                         \
        b.change;                                                                        \
        cr_assert_eq(describe_differs(&a, &b), !described_alike(&a, &b),                 \
                     "after " #change ": described alike: %d", described_alike(&a, &b)); \
        cr_assert_eq(describe_differs(&b, &a), describe_differs(&a, &b));                \
    } while (0)

Test(describe, every_difference_that_a_description_shows_counts_and_no_other)
{
    EXPECT_AS_DESCRIBED(kind = DROVER__V1__ENGINE_KIND__ENGINE_KIND_VLLM);
    EXPECT_AS_DESCRIBED(version[1] = '2');
    EXPECT_AS_DESCRIBED(prefill_tokens_per_s = 2000);
    EXPECT_AS_DESCRIBED(prefill_tokens_per_s = 0);
    EXPECT_AS_DESCRIBED(decode_tokens_per_s = 20);
    EXPECT_AS_DESCRIBED(decode_tokens_per_s = 0);
    EXPECT_AS_DESCRIBED(models_count = 1);
    EXPECT_AS_DESCRIBED(models[0].id[0] = 'T');
    EXPECT_AS_DESCRIBED(models[0].state = 2);
    EXPECT_AS_DESCRIBED(models[0].max_context = 4096);
    EXPECT_AS_DESCRIBED(models[0].operations = 2);
    EXPECT_AS_DESCRIBED(models[0].load_ms = 20);
    EXPECT_AS_DESCRIBED(models[0].has = ABILITY_BIT(ABILITY_VISION));
    EXPECT_AS_DESCRIBED(models[0].lacks = ABILITY_BIT(ABILITY_TOOLS));
    EXPECT_AS_DESCRIBED(models[0].about.size_bytes = 7);
    EXPECT_AS_DESCRIBED(models[0].about.memory_bytes = 7);
    EXPECT_AS_DESCRIBED(models[0].about.digest[0] = 'd');
    EXPECT_AS_DESCRIBED(models[1].id[0] = 'S');
    EXPECT_AS_DESCRIBED(models[1].alias_of = 0);
    /* Load and reachability are a LoadReport's. */
    EXPECT_AS_DESCRIBED(reachable = false);
    EXPECT_AS_DESCRIBED(running = 3);
    EXPECT_AS_DESCRIBED(progress = 3);
    EXPECT_AS_DESCRIBED(kv_used_fraction = 0.5f);
}

/* An engine measures its speeds anew with every request. */
Test(describe, a_speed_counts_when_it_has_changed_by_a_tenth)
{
    static struct engine_facts a, b;

    example(&a);
    example(&b);

    b.prefill_tokens_per_s = 1090;
    b.decode_tokens_per_s = 46;
    cr_assert_not(describe_differs(&a, &b));
    b.prefill_tokens_per_s = 1120;
    cr_assert(describe_differs(&a, &b));
    example(&b);
    b.decode_tokens_per_s = 44;
    cr_assert(describe_differs(&a, &b));
    a.prefill_tokens_per_s = 0;
    example(&b);
    b.prefill_tokens_per_s = 0.1f;
    cr_assert(describe_differs(&a, &b), "the first measurement");
}

Test(describe, an_instant_that_moves_on_within_the_minute_is_no_change)
{
    static struct engine_facts a, b;

    example(&a);
    example(&b);
    (void)strlcpy(a.models[0].about.expires_at, "2026-11-30T12:00:01.5Z", MODEL_INSTANT_BYTES);
    (void)strlcpy(b.models[0].about.expires_at, "2026-11-30T12:00:59Z", MODEL_INSTANT_BYTES);
    cr_assert_not(describe_differs(&a, &b));
    (void)strlcpy(b.models[0].about.expires_at, "2026-11-30T12:01:00Z", MODEL_INSTANT_BYTES);
    cr_assert(describe_differs(&a, &b));
}

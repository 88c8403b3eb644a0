/* test_metadata.c - a call's custom fields: what is kept, found, refused and bounded. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "proto/rpc/grpc/metadata.h"

static int add(struct metadata *m, const char *name, const char *value)
{
    return metadata_add(m, name, strlen(name), value, strlen(value));
}

Test(metadata, the_first_value_is_found_and_bytes_come_decoded)
{
    struct metadata m = {0};
    size_t n;

    cr_assert_eq(add(&m, "x-a", "one"), 0);
    cr_assert_eq(add(&m, "x-a", "two"), 0);
    cr_assert_eq(add(&m, "x-b-bin", "AAEC,AwQ="), 0);
    cr_assert_str_eq(metadata_get(&m, "x-a", &n), "one");
    cr_assert_eq(n, 3);
    cr_assert_eq(memcmp(metadata_get(&m, "x-b-bin", &n), "\0\1\2", 4), 0);
    cr_assert_eq(n, 3);
    cr_assert_null(metadata_get(&m, "x-c", NULL));
    metadata_finish(&m);
}

Test(metadata, of_a_list_with_one_bad_part_nothing_is_kept)
{
    struct metadata m = {0};

    cr_assert_eq(add(&m, "x-b-bin", "AAEC,Q="), DRV_EINVAL);
    cr_assert_eq(buf_size(&m.fields), 0);
    metadata_finish(&m);
}

/* A record is 8 bytes of lengths, the name, the value and two NULs: 17 for "x-b-bin" and no
 * value, so 8000 commas would make 136 KB. */
Test(metadata, a_value_of_commas_does_not_grow_without_bound)
{
    struct metadata m = {0};
    char commas[8001];

    memset(commas, ',', sizeof(commas) - 1);
    commas[sizeof(commas) - 1] = '\0';
    cr_assert_eq(add(&m, "x-a", "kept"), 0);
    cr_assert_eq(add(&m, "x-b-bin", commas), DRV_ETOOBIG);
    cr_assert_eq(buf_size(&m.fields), 8 + 3 + 1 + 4 + 1);
    cr_assert_str_eq(metadata_get(&m, "x-a", NULL), "kept");
    metadata_finish(&m);
}

/* test_holders.c - the table of what engines keep: it lasts, forgets the oldest, and believes
 * no torn entry. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "shm/share/holders.h"

static char dir[64], path[128];

static void set_up(void)
{
    (void)strlcpy(dir, "/dev/shm/drover-holders-XXXXXX", sizeof(dir));
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/" HOLDERS_FILE_NAME, dir);
}

static void tear_down(void)
{
    (void)unlink(path);
    (void)rmdir(dir);
}

TestSuite(holders, .init = set_up, .fini = tear_down);

static struct holders *reopen(struct holders *old)
{
    struct holders *holders;
    struct error err = {0};

    holders_close(old);
    cr_assert_eq(holders_open(&holders, dir, &err), 0, "%s", err.text);
    return holders;
}

static const char *id_of(unsigned i)
{
    static char id[32];

    (void)snprintf(id, sizeof(id), "resp_%u", i);
    return id;
}

static bool has(const struct holders *holders, unsigned i, uint64_t expected)
{
    uint64_t node = 0, owner = 0;

    return holders_find(holders, id_of(i), &node, &owner) && node == expected && owner == 7;
}

Test(holders, an_entry_is_there_for_the_next_process_and_the_latest_counts)
{
    struct holders *holders = reopen(NULL);
    uint64_t node, owner;
    struct stat st;
    int status;
    pid_t child;

    cr_expect_not(holders_find(holders, "resp_1", &node, &owner));
    child = fork();
    if (child == 0) {
        holders_note(holders, "resp_1", 5, 7);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(has(holders, 1, 5));
    holders = reopen(holders);
    cr_expect(has(holders, 1, 5));
    holders_note(holders, "resp_1", 6, 7);
    cr_expect(has(holders, 1, 6));
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_mode & 0777, 0600u);
    holders_close(holders);
}

Test(holders, a_full_table_forgets_the_oldest)
{
    struct holders *holders = reopen(NULL);
    unsigned lost = 0, left = 0, n = 4 * HOLDERS_ENTRIES;

    for (unsigned i = 0; i < n; i++)
        holders_note(holders, id_of(i), i + 1, 7);
    for (unsigned i = n - HOLDERS_ENTRIES / 2; i < n; i++)
        lost += !has(holders, i, i + 1);
    for (unsigned i = 0; i < HOLDERS_ENTRIES; i++)
        left += has(holders, i, i + 1);
    cr_expect_lt(lost, HOLDERS_ENTRIES / 100, "%u", lost);
    cr_expect_eq(left, 0);
    for (unsigned i = n - 1000; i < n; i++)
        cr_expect(has(holders, i, i + 1));
    holders_close(holders);
}

Test(holders, no_id_and_no_name_is_in_the_file)
{
    struct holders *holders = reopen(NULL);
    char *bytes = malloc(4 << 20);
    ssize_t n;
    int fd;

    holders_note(holders, "resp_secret_of_a_client", 5, 7);
    holders_close(holders);
    fd = open(path, O_RDONLY);
    n = read(fd, bytes, 4 << 20);
    (void)close(fd);
    cr_assert_gt(n, 0);
    cr_expect_null(memmem(bytes, (size_t)n, "secret", 6));
    free(bytes);
}

/* A process may be killed between any two words of an entry, and two may write one at once. */
Test(holders, a_torn_entry_is_none)
{
    struct holders *holders = reopen(NULL);
    uint64_t words[4], node, owner, other = 99;
    off_t at = 64;
    int fd;

    holders_note(holders, "resp_1", 5, 7);
    fd = open(path, O_RDWR);
    do {
        cr_assert_eq(pread(fd, words, sizeof(words), at), (ssize_t)sizeof(words));
        at += (off_t)sizeof(words);
    } while (words[3] == 0);
    at -= (off_t)sizeof(words);
    for (unsigned word = 0; word < 4; word++) {
        cr_assert_eq(pwrite(fd, &other, 8, at + 8 * (off_t)word), 8);
        cr_expect_not(holders_find(holders, "resp_1", &node, &owner), "word %u", word);
        cr_assert_eq(pwrite(fd, &words[word], 8, at + 8 * (off_t)word), 8);
        cr_expect(has(holders, 1, 5));
    }
    (void)close(fd);
    holders_close(holders);
}

Test(holders, a_file_of_another_layout_is_begun_anew_and_a_foreign_one_is_left_alone)
{
    struct holders *holders = reopen(NULL);
    struct error err = {0};
    uint32_t version = 4711;
    uint64_t node, owner;
    int fd;

    holders_note(holders, "resp_1", 5, 7);
    fd = open(path, O_RDWR);
    cr_assert_eq(pwrite(fd, &version, sizeof(version), 8), (ssize_t)sizeof(version));
    (void)close(fd);
    holders = reopen(holders);
    cr_expect_not(holders_find(holders, "resp_1", &node, &owner));
    holders_note(holders, "resp_1", 5, 7);
    cr_assert_eq(truncate(path, 100), 0);
    holders = reopen(holders);
    cr_expect_not(holders_find(holders, "resp_1", &node, &owner));
    holders_close(holders);
    (void)unlink(path);
    cr_assert_eq(symlink("/etc/hostname", path), 0);
    cr_expect_lt(holders_open(&holders, dir, &err), 0);
    cr_expect_null(holders);
}

Test(holders, without_a_directory_it_is_in_memory)
{
    struct holders *holders;
    struct error err = {0};

    cr_assert_eq(holders_open(&holders, NULL, &err), 0);
    holders_note(holders, "resp_1", 5, 7);
    cr_expect(has(holders, 1, 5));
    holders_close(holders);
}

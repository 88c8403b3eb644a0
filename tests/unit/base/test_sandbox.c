/* test_sandbox.c - what a process under the filter can still do, and what not: each case in a
 * child that installs the filter and tries. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/secure/sandbox.h"

TestSuite(sandbox, .timeout = 60);

static char path[64]; /* a file that is there */

/* The child's verdict: 0, or the line of the first thing that was not as it should be. */
#define SHALL(condition)     \
    do {                     \
        if (!(condition))    \
            return __LINE__; \
    } while (0)
#define DENIED(call) (errno = 0, (call) == -1 && errno == EPERM)

static int in_child(enum sandbox_kind kind, enum sandbox_mode mode, int (*tries)(void))
{
    int pipe_fds[2], line = -1, status;
    struct error err;
    pid_t pid;

    cr_assert_eq(pipe(pipe_fds), 0);
    pid = fork();
    if (pid == 0) {
        line = sandbox_install(kind, mode, false, &err) == 0 ? tries() : -2;
        (void)!write(pipe_fds[1], &line, sizeof(line));
        _exit(0);
    }
    (void)close(pipe_fds[1]);
    cr_assert_eq(read(pipe_fds[0], &line, sizeof(line)), (ssize_t)sizeof(line));
    (void)close(pipe_fds[0]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return line;
}

static void make_file(void)
{
    int fd;

    (void)snprintf(path, sizeof(path), "/tmp/drover-sandbox-XXXXXX");
    fd = mkstemp(path);
    cr_assert_neq(fd, -1);
    cr_assert_eq(write(fd, "text", 4), 4);
    (void)close(fd);
}

static int try_attacks(void)
{
    static char *const argv[] = {(char *)"/bin/true", NULL};
    int fd;

    SHALL(DENIED(execve("/bin/true", argv, argv)));
    SHALL(DENIED(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, argv, 0)));
    SHALL(DENIED(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL)));
    SHALL(DENIED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0)));
    SHALL(DENIED(kill(getppid(), 0)));
    SHALL(DENIED(fork()));
    SHALL(DENIED(setuid(0)));
    SHALL(DENIED(open(path, O_WRONLY)));
    SHALL(DENIED(open(path, O_RDWR)));
    SHALL(DENIED(open(path, O_WRONLY | O_APPEND | O_TRUNC)));
    SHALL(DENIED(open("/tmp/drover-sandbox-new", O_WRONLY | O_CREAT, 0600)));
    SHALL(DENIED(open("/tmp", O_RDWR | O_TMPFILE, 0600)));
    SHALL(DENIED(unlink(path)));
    SHALL(DENIED(rename(path, "/tmp/drover-sandbox-new")));
    SHALL(DENIED(chmod(path, 0666)));
    SHALL(DENIED(chown(path, 1, 1)));
    SHALL(DENIED(truncate(path, 0)));
    SHALL(DENIED(mkdir("/tmp/drover-sandbox-new", 0700)));
    SHALL(DENIED(symlink("/etc/passwd", "/tmp/drover-sandbox-new")));
    SHALL(DENIED(socket(AF_PACKET, SOCK_RAW, 0)));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    SHALL(fd != -1);
    SHALL(DENIED(listen(fd, 1)));
    SHALL(DENIED(syscall(SYS_bpf, 0, NULL, 0)));
    SHALL(DENIED(syscall(SYS_unshare, 0)));
    return 0;
}

static int try_worker_attacks(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    SHALL(page != MAP_FAILED);
    SHALL(DENIED(mprotect(page, 4096, PROT_READ | PROT_EXEC)));
    SHALL(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
          MAP_FAILED);
    /* Not even the master's control socket. */
    SHALL(DENIED(socket(AF_UNIX, SOCK_STREAM, 0)));
    return try_attacks();
}

static int try_work(void)
{
    struct sockaddr_in nobody = {.sin_family = AF_INET, .sin_port = htons(1)};
    char text[8];
    int fd;

    fd = open(path, O_RDONLY | O_CLOEXEC);
    SHALL(fd != -1 && read(fd, text, sizeof(text)) == 4);
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
    SHALL(fd != -1 && write(fd, "more", 4) == 4);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    nobody.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    SHALL(fd != -1 && connect(fd, (struct sockaddr *)&nobody, sizeof(nobody)) == -1);
    SHALL(errno == ECONNREFUSED);
    free(malloc(1u << 20));
    return 0;
}

static void *resolve(void *out)
{
    struct addrinfo *list;

    *(int *)out = getaddrinfo("localhost", "80", NULL, &list);
    if (*(int *)out == 0)
        freeaddrinfo(list);
    return NULL;
}

static int try_resolving(void)
{
    pthread_t thread;
    int result = -1;

    SHALL(pthread_create(&thread, NULL, resolve, &result) == 0);
    SHALL(pthread_join(thread, NULL) == 0);
    SHALL(result == 0);
    return 0;
}

Test(sandbox, a_worker_can_work_and_nothing_more)
{
    struct stat st;

    make_file();
    cr_expect_eq(in_child(SANDBOX_WORKER, SANDBOX_ON, try_work), 0);
    cr_expect_eq(in_child(SANDBOX_WORKER, SANDBOX_ON, try_worker_attacks), 0);
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, 8, "only what was appended");
    (void)unlink(path);
}

Test(sandbox, health_can_also_resolve_names_in_a_thread)
{
    make_file();
    cr_expect_eq(in_child(SANDBOX_HEALTH, SANDBOX_ON, try_work), 0);
    cr_expect_eq(in_child(SANDBOX_HEALTH, SANDBOX_ON, try_resolving), 0);
    cr_expect_eq(in_child(SANDBOX_HEALTH, SANDBOX_ON, try_attacks), 0);
    (void)unlink(path);
}

static int try_pair(void)
{
    int fds[2];

    SHALL(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    return try_resolving();
}

Test(sandbox, a_node_can_also_resolve_names_as_libcurl_does)
{
    make_file();
    cr_expect_eq(in_child(SANDBOX_NODE, SANDBOX_ON, try_work), 0);
    cr_expect_eq(in_child(SANDBOX_NODE, SANDBOX_ON, try_pair), 0);
    cr_expect_eq(in_child(SANDBOX_NODE, SANDBOX_ON, try_attacks), 0);
    (void)unlink(path);
}

static int try_chmod(void)
{
    SHALL(chmod(path, 0640) == 0);
    return 0;
}

Test(sandbox, off_and_log_forbid_nothing)
{
    make_file();
    cr_expect_eq(in_child(SANDBOX_WORKER, SANDBOX_OFF, try_chmod), 0);
    cr_expect_eq(in_child(SANDBOX_WORKER, SANDBOX_LOG, try_chmod), 0);
    (void)unlink(path);
}

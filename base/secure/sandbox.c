/* sandbox.c - the tables of system calls, and the filter made of them (libseccomp). */
#include "base/secure/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"

/* All kinds may call these without a look at the arguments.  A name that this processor's
 * kernel does not have is passed over. */
static const char *const common[] = {
    /* descriptors */
    "read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "close", "dup", "dup2",
    "dup3", "fcntl", "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl",
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "signalfd4", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "pipe2",
    /* looking at files; openat is below */
    "fstat", "newfstatat", "stat", "lstat", "statx", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getcwd",
    /* sockets that exist, and outgoing ones; socket is below.  No listen, no bind. */
    "connect", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt",
    "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg", "shutdown",
    /* memory; mmap and mprotect are below */
    "munmap", "mremap", "madvise", "brk", "membarrier",
    /* time, numbers, oneself */
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    "getrandom", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid",
    "getrusage", "getrlimit", "sched_getaffinity", "sched_yield", "uname", "sysinfo",
    /* signals to oneself, locks, the end */
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "sigaltstack", "futex",
    "restart_syscall", "set_robust_list", "rseq", "exit", "exit_group"};

/* getaddrinfo() in a thread: its netlink socket is bound, and nss modules are mapped. */
static const char *const of_resolver[] = {"bind", "mmap", "mprotect", "set_tid_address"};

/* LeakSanitizer's last look, by a thread that traces the others, and reports. */
static const char *const of_sanitizer[] = {
    "clone",       "clone3", "ptrace",   "wait4",     "prctl",    "mmap",      "kill",
    "personality", "tgkill", "mprotect", "prlimit64", "getdents", "getdents64"};

static int allow_names(scmp_filter_ctx filter, const char *const *names, size_t n)
{
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++) {
        int number = seccomp_syscall_resolve_name(names[i]);

        if (number >= 0)
            rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
    }
    return rc;
}

/* Allows `name` where (argument & mask) == value. */
static int allow_masked(scmp_filter_ctx filter, const char *name, unsigned argument,
                        uint64_t mask, uint64_t value)
{
    int number = seccomp_syscall_resolve_name(name);

    if (number < 0)
        return 0;
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
                            SCMP_CMP(argument, SCMP_CMP_MASKED_EQ, mask, value));
}

static int allow_value(scmp_filter_ctx filter, const char *name, unsigned argument,
                       uint64_t value)
{
    /* Flags and commands are ints: what lies above them in the register says nothing. */
    return allow_masked(filter, name, argument, UINT32_MAX, value);
}

/* Reading, and appending as to a log; so nothing that is there can be changed. */
static int allow_opening(scmp_filter_ctx filter, const char *name, unsigned flags_argument)
{
    int rc =
        allow_masked(filter, name, flags_argument, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY);

    if (rc == 0)
        rc = allow_masked(filter, name, flags_argument, O_ACCMODE | O_APPEND | O_TRUNC,
                          O_WRONLY | O_APPEND);
    return rc;
}

static int allow_common(scmp_filter_ctx filter)
{
    int rc = allow_names(filter, common, ARRAY_LEN(common));

    if (rc == 0)
        rc = allow_opening(filter, "openat", 2);
    if (rc == 0)
        rc = allow_opening(filter, "open", 1);
    if (rc == 0)
        rc = allow_value(filter, "socket", 0, AF_INET);
    if (rc == 0)
        rc = allow_value(filter, "socket", 0, AF_INET6);
    if (rc == 0)
        rc = allow_value(filter, "ioctl", 1, FIONREAD);
    if (rc == 0)
        rc = allow_value(filter, "ioctl", 1, FIONBIO);
    if (rc == 0)
        rc = allow_value(filter, "prctl", 0, PR_SET_NAME);
    if (rc == 0) /* abort() */
        rc = allow_value(filter, "tgkill", 0, (uint64_t)getpid());
    return rc;
}

/* A worker's code is all there when it enters: memory that is made executable is an attack. */
static int allow_worker(scmp_filter_ctx filter)
{
    int rc = allow_masked(filter, "mmap", 2, PROT_EXEC, 0);

    if (rc == 0)
        rc = allow_masked(filter, "mprotect", 2, PROT_EXEC, 0);
    return rc;
}

static int allow_resolving(scmp_filter_ctx filter)
{
    int rc = allow_names(filter, of_resolver, ARRAY_LEN(of_resolver));

    /* Threads, not processes.  clone3 hides its flags from a filter: at ENOSYS
     * the C library falls back to clone. */
    if (rc == 0)
        rc = allow_masked(filter, "clone", 0, CLONE_THREAD, CLONE_THREAD);
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* The name service caches, and netlink for the machine's own addresses. */
    if (rc == 0)
        rc = allow_value(filter, "socket", 0, AF_UNIX);
    if (rc == 0)
        rc = allow_value(filter, "socket", 0, AF_NETLINK);
    return rc;
}

static int allow_health(scmp_filter_ctx filter)
{
    int rc = allow_resolving(filter);

    /* Room in the scoreboard; another mode makes holes. */
    return rc == 0 ? allow_value(filter, "fallocate", 1, 0) : rc;
}

/* libcurl resolves in threads, too, and wakes its own by a pair of sockets. */
static int allow_node(scmp_filter_ctx filter)
{
    int rc = allow_resolving(filter);

    return rc == 0 ? allow_value(filter, "socketpair", 0, AF_UNIX) : rc;
}

static int allow_kind(scmp_filter_ctx filter, enum sandbox_kind kind)
{
    switch (kind) {
    case SANDBOX_WORKER:
        return allow_worker(filter);
    case SANDBOX_HEALTH:
        return allow_health(filter);
    case SANDBOX_NODE:
        return allow_node(filter);
    }
    return -EINVAL;
}

static int fill(scmp_filter_ctx filter, enum sandbox_kind kind, bool sanitizer)
{
    int rc;

    /* All threads at once, refusals in the kernel's log, rules as a tree. */
    rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc == 0 && sanitizer)
        rc = allow_names(filter, of_sanitizer, ARRAY_LEN(of_sanitizer));
    if (rc == 0)
        rc = allow_common(filter);
    if (rc == 0)
        rc = allow_kind(filter, kind);
    return rc;
}

int sandbox_install(enum sandbox_kind kind, enum sandbox_mode mode, bool sanitizer,
                    struct error *err)
{
    scmp_filter_ctx filter;
    int rc;

    if (mode == SANDBOX_OFF)
        return 0;
    filter = seccomp_init(mode == SANDBOX_LOG ? SCMP_ACT_LOG : SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = fill(filter, kind, sanitizer);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    if (rc == 0)
        return 0;
    return error_set(err, DRV_ESYS,
                     "the system call filter cannot be installed: %s (%s does without)",
                     strerror(-rc), kind == SANDBOX_NODE ? "--seccomp off" : "seccomp: off");
}

int sandbox_enter(enum sandbox_kind kind, enum sandbox_mode mode, struct error *err)
{
#ifdef DROVER_ASAN
    return sandbox_install(kind, mode, true, err);
#else
    return sandbox_install(kind, mode, false, err);
#endif
}

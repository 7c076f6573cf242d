/*
 * The floor of `run`: what the kernel alone takes for the bench's bundle. It reads no configuration, checks nothing
 * that an honest bundle has right, keeps no state, and does the same clone, mounts, pivot_root, cgroups, execve, wait
 * and cleanup as a runtime must.
 *
 *   floor enters|moved ROOTFS FILTER|- GROUP... -- PROGRAM [ARG...]
 *
 * A GROUP is a cgroup to make: one per v1 hierarchy, or one of v2. FILTER holds compiled BPF instructions. On v1 the
 * container's process enters its groups by itself, or is moved by its parent, as crun and runc do it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((long)(call) < 0)                                                                                          \
            fail(#call);                                                                                               \
    } while (0)

static void fail(const char *call)
{
    fprintf(stderr, "floor: %s: %s\n", call, strerror(errno));
    _exit(125);
}

static void put(const char *folder, const char *file, const char *text)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail(path);
    close(fd);
}

static void inherit(const char *group, const char *file)
{
    char path[4096], text[256];
    snprintf(path, sizeof path, "%s/../%s", group, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0)
        fail(path);
    close(fd);
    text[n] = 0;
    put(group, file, text);
}

static const char *const devices[] = {
    "c *:* m",     "b *:* m",     "c 1:3 rwm",   "c 1:5 rwm",  "c 1:7 rwm",   "c 1:8 rwm",
    "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm",
};

/* v1: a way for the child into its group, by which the kernel takes no lock against all forks of the host. */
static int gate_of(const char *group)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tasks", group);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        fail(path);
    return fd;
}

/* The limits of the bench's bundle: 128 MiB, half a core, 64 processes, the default devices. */
static int make_group(const char *group)
{
    CHECK(mkdir(group, 0755));
    if (!strncmp(group, "/sys/fs/cgroup/cpuset/", 22)) {
        inherit(group, "cpuset.cpus");
        inherit(group, "cpuset.mems");
    } else if (!strncmp(group, "/sys/fs/cgroup/memory/", 22)) {
        put(group, "memory.limit_in_bytes", "134217728");
    } else if (!strncmp(group, "/sys/fs/cgroup/cpu/", 19) || !strncmp(group, "/sys/fs/cgroup/cpu,cpuacct/", 27)) {
        put(group, "cpu.cfs_period_us", "100000");
        put(group, "cpu.cfs_quota_us", "50000");
    } else if (!strncmp(group, "/sys/fs/cgroup/pids/", 20)) {
        put(group, "pids.max", "64");
    } else if (!strncmp(group, "/sys/fs/cgroup/devices/", 23)) {
        put(group, "devices.deny", "a");
        for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
            put(group, "devices.allow", devices[i]);
    } else if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0) {
        put(group, "memory.max", "134217728");
        put(group, "cpu.max", "50000 100000");
        put(group, "pids.max", "64");
        int fd = open(group, O_DIRECTORY | O_CLOEXEC);
        CHECK(fd);
        return fd;
    }
    return -1;
}

static void at(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    if (mount(source, target, type, flags, data) < 0)
        fail(target);
}

static void mount_all(char **groups, int count)
{
    const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    at("proc", "proc", "proc", 0, NULL);
    at("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    CHECK(mkdir("dev/pts", 0755));
    CHECK(mkdir("dev/shm", 0755));
    CHECK(mkdir("dev/mqueue", 0755));
    at("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    at("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k");
    at("mqueue", "dev/mqueue", "mqueue", quiet, NULL);
    at("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL);
    if (count == 1) {
        at("cgroup", "sys/fs/cgroup", "cgroup2", quiet | MS_RDONLY | MS_RELATIME, NULL);
        return;
    }
    /* Without a cgroup namespace: a tmpfs with the container's group of each hierarchy. */
    at("tmpfs", "sys/fs/cgroup", "tmpfs", quiet | MS_RELATIME, "mode=755");
    for (int i = 0; i < count; i++) {
        char target[256];
        const char *name = groups[i] + strlen("/sys/fs/cgroup/");
        snprintf(target, sizeof target, "sys/fs/cgroup/%.*s", (int)strcspn(name, "/"), name);
        CHECK(mkdir(target, 0755));
        at(groups[i], target, NULL, MS_BIND, NULL);
        at(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | quiet | MS_RELATIME, NULL);
    }
    at(NULL, "sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | quiet | MS_RELATIME, NULL);
}

static void make_devices(void)
{
    static const struct { const char *path; int major, minor; } nodes[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
    };
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        CHECK(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    CHECK(symlink("/proc/self/fd", "dev/fd"));
    CHECK(symlink("/proc/self/fd/0", "dev/stdin"));
    CHECK(symlink("/proc/self/fd/1", "dev/stdout"));
    CHECK(symlink("/proc/self/fd/2", "dev/stderr"));
    CHECK(symlink("pts/ptmx", "dev/ptmx"));
}

static void guard(void)
{
    static const char *const masked[] = {
        "/proc/acpi",        "/proc/asound",      "/proc/kcore",       "/proc/keys",    "/proc/latency_stats",
        "/proc/timer_list",  "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
    };
    static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    struct stat stat_of;
    const char *empty = NULL;
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (stat(masked[i], &stat_of) < 0)
            continue;
        if (!S_ISDIR(stat_of.st_mode)) {
            at("/dev/null", masked[i], NULL, MS_BIND, NULL);
        } else if (empty) {
            at(empty, masked[i], NULL, MS_BIND, NULL);
        } else {
            empty = masked[i];
            at("tmpfs", masked[i], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1");
        }
    }
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        if (stat(read_only[i], &stat_of) < 0)
            continue;
        at(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL);
        at(NULL, read_only[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
    }
    at(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
}

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(fd);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void confine(struct sock_fprog *filter)
{
    const unsigned keep = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{keep, keep, 0}, {0, 0, 0}};
    const struct rlimit files = {1024, 1024};
    CHECK(setrlimit(RLIMIT_NOFILE, &files));
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (capability > 31 || !(keep >> capability & 1))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    CHECK(syscall(SYS_capset, &header, data));
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (filter->len)
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter));
}

static void become(const char *rootfs, char **groups, int count, const int *gates, int gate_count, int go[2],
                   struct sock_fprog *filter, char **program)
{
    char byte;
    static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL};
    CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    CHECK(setsid());
    /* A parent that fails must not leave us waiting. */
    close(go[1]);
    if (read(go[0], &byte, 1) != 1)
        fail("go");
    for (int i = 0; i < gate_count; i++) {
        if (write(gates[i], "0", 1) != 1)
            fail("enter cgroup");
        close(gates[i]);
    }
    CHECK(sethostname("bench", 5));
    loopback_up();
    at(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
    at(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL);
    at(NULL, rootfs, NULL, MS_PRIVATE, NULL);
    CHECK(chdir(rootfs));
    umask(0);
    mount_all(groups, count);
    make_devices();
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    guard();
    umask(022);
    confine(filter);
    execve(program[0], program, environment);
    fail(program[0]);
}

static struct sock_fprog read_filter(const char *path)
{
    static struct sock_filter instructions[BPF_MAXINSNS];
    struct sock_fprog filter = {0, instructions};
    if (strcmp(path, "-")) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, instructions, sizeof instructions);
        if (n < 0)
            fail(path);
        close(fd);
        filter.len = n / sizeof *instructions;
    }
    return filter;
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fputs("usage: floor enters|moved ROOTFS FILTER|- GROUP... -- PROGRAM [ARG...]\n", stderr);
        return 2;
    }
    const int enters = !strcmp(*++argv, "enters");
    char **groups = argv + 3, **program = groups;
    while (*program && strcmp(*program, "--"))
        program++;
    int count = program++ - groups, unified = -1, go[2], pidfd = -1;
    int gates[32], gate_count = 0;
    struct sock_fprog filter = read_filter(argv[2]);
    CHECK(pipe2(go, O_CLOEXEC));
    for (int i = 0; i < count; i++)
        unified = make_group(groups[i]);
    for (int i = 0; enters && unified < 0 && i < count && i < 32; i++)
        gates[gate_count++] = gate_of(groups[i]);
    struct clone_args arguments = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD |
                 (unified >= 0 ? CLONE_INTO_CGROUP | CLONE_NEWCGROUP : 0),
        .pidfd = (__u64)(unsigned long)&pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = unified >= 0 ? unified : 0,
    };
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    CHECK(child);
    if (child == 0)
        become(argv[1], groups, count, gates, gate_count, go, &filter, program);
    char pid[24];
    snprintf(pid, sizeof pid, "%ld", child);
    for (int i = 0; i < count && unified < 0 && !enters; i++)
        put(groups[i], "cgroup.procs", pid);
    if (write(go[1], "g", 1) != 1)
        fail("go");
    siginfo_t end;
    CHECK(waitid(P_PIDFD, pidfd, &end, WEXITED));
    for (int i = 0; i < count; i++)
        while (rmdir(groups[i]) < 0 && errno == EBUSY)
            sched_yield();
    return end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status;
}

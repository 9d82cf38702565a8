#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016,SC2089,SC2090
# ops.sh FOLDER LOG [SHELL]: some hundred file operations in the empty FOLDER, each written to LOG with its output and status.
# It is run by the same busybox in the guest's share and on the host's own file system: both logs and both folders must be alike.
# So nothing here may depend on the clock, on inode numbers, on the order of a directory or on the size of a directory.
# With a path to this busybox's sh as third argument it also changes owners, makes device nodes and acts as another user.
folder=$1 log=$2 shell=${3:-}
cd "$folder" || exit 99
: > "$log" || exit 98
umask 022
export LC_ALL=C TZ=UTC0
count=0

op() { # COMMAND: run it in a shell of its own, note what it said and how it ended
  count=$((count + 1))
  output=$(sh -c "$1" op 2>&1 < /dev/null)
  echo "#$count $1
$output
=> $?" >> "$log"
}

show="stat -c '%n|%F|%a|%s|%h|%u:%g'"
dirs="stat -c '%n|%F|%a|%u:%g'"

# Create, write, append, truncate
op 'echo one > a; cat a'
op 'echo two >> a; cat a'
op 'printf three > a; cat a'
op ': > empty; wc -c empty'
op 'set -C; echo x > a'
op 'cat missing'
op 'cat a/below'
op 'echo x > missing/file'
op 'echo x > .'
op "$show a empty"
for size in 0 1 4095 4096 4097 65536 1048577; do
  op "head -c $size /dev/zero | tr '\\0' x > size-$size; wc -c < size-$size; md5sum size-$size"
  op "truncate -s 100 size-$size; md5sum size-$size; $show size-$size"
  op "truncate -s 5000 size-$size; md5sum size-$size; $show size-$size"
done
op 'truncate -s 0 size-1; cat size-1 | wc -c'
op 'truncate -c -s 5 missing; ls missing'
op 'truncate -s 5000000000 huge; stat -c %s huge; tail -c 3 huge | od -c'
op 'echo end | dd of=huge bs=1 seek=4999999990 conv=notrunc; stat -c %s huge; tail -c 12 huge | od -c'
op 'dd if=huge bs=4096 skip=1220703 2> /dev/null | md5sum; rm huge'
op 'seq 1 3000 > input'
for bs in 1 512 3000 4096 131072; do
  op "dd if=input of=dd-$bs bs=$bs count=4; wc -c < dd-$bs; md5sum dd-$bs"
  op "echo patch | dd of=dd-$bs bs=1 seek=2 conv=notrunc; head -c 12 dd-$bs; wc -c < dd-$bs"
  op "echo far | dd of=dd-$bs bs=$bs seek=9 conv=notrunc; md5sum dd-$bs; $show dd-$bs"
  op "dd if=dd-$bs bs=$bs skip=1 2> /dev/null | md5sum"
done
op 'fallocate -l 10000 allocated; stat -c %s allocated; md5sum allocated'
op 'seq 1 20000 > numbers; dd if=numbers of=copied bs=777; cmp numbers copied && tail -n 1 copied'
op 'dd if=numbers of=synced bs=4k conv=fsync; md5sum synced; rm synced'
op 'dd if=numbers of=direct bs=4096 count=20 oflag=direct; md5sum direct'
op 'dd if=numbers bs=4096 count=20 iflag=direct 2> /dev/null | md5sum'
op 'yes line | head -n 5000 | tee teed | md5sum; md5sum teed; echo more | tee -a teed; wc teed'
op 'sed -i s/line/LINE/ teed; head -n 2 teed; wc teed'
op 'sort -r numbers -o sorted; head -n 3 sorted; rm sorted'
op 'for i in 0 1 2 3; do dd if=numbers of=part.$i bs=30000 skip=$i count=1; done; cat part.* | cmp - numbers && rm part.*'

# Several descriptors of one file
op 'exec 3< numbers; read x <&3; echo $x; rm numbers; read y <&3; echo $y; tail -n 1 <&3; ls numbers'
op 'exec 3<> both; echo written >&3; exec 4< both; cat <&4; rm both; echo again >&3; cat <&4'
op 'exec 3>> appended 4>> appended; echo 1 >&3; echo 2 >&4; echo 3 >&3; cat appended'
op 'exec 3> shrunk; echo 123456 >&3; : > shrunk; echo 78 >&3; od -c shrunk'
op 'echo x > gone; exec 3< gone; mv gone gone2; cat <&3; rm gone2; cat <&3'
op 'exec 3> moved; mkdir -p into; mv moved into/; echo here >&3; cat into/moved'

# Directories
op 'mkdir d; mkdir d; mkdir d/e; mkdir no/such; mkdir a/x'
op 'mkdir -p d/e/f/g/h; mkdir -p d/e/f; find d | sort'
op 'rmdir d; rmdir a; rmdir missing; rmdir .; rmdir d/e/f/g/h; ls d/e/f/g'
op "mkdir -m 700 private; mkdir -m 1777 sticky; mkdir -m 2755 setgid; $dirs private sticky setgid"
op 'cd d/e && pwd -P | tail -c 5; ls ..; cd ../..; ls -d d'
op 'rm d; rm -r d/e/f; ls -R d'
op 'mkdir many; for i in $(seq 1 300); do : > many/file-$i; done; ls many | wc -l; ls many | sort | md5sum'
op 'cd many; ls | while read f; do case $f in *[02468]) rm $f;; esac; done; ls | wc -l; ls | sort | md5sum'
op 'cd many; for f in *; do mv $f renamed-$f; done; ls | wc -l; ls | sort | md5sum'
op 'rm -r many; ls many'
op 'mkdir cur; cd cur; rmdir ../cur; ls; echo x > y; cd ..; ls cur'
deep=deep
for level in 1 2 3 4 5 6 7 8 9 10 11 12; do deep=$deep/level-$level; done
op "mkdir -p $deep; echo bottom > $deep/file; cat $deep/file; find deep | wc -l"
op "cat $deep/../../../level-10/level-11/level-12/file; ls $deep/.."

# Names
long=$(printf '%0255d' 0)
op "echo long > $long; cat $long; rm $long"
op "echo long > ${long}1"
op "mkdir $long; ls -d $long; rmdir $long"
for name in 'two words' ' lead' 'trail ' '-dash' 'star*' 'quest?' 'back\slash' 'hash#' 'semi;colon' 'dollar$' "quote'" \
  'double"' 'tab	tab' 'new
line' 'ünï' '日本語' '...' '..a' '~' '%s' '&'; do
  export name
  op 'echo "in $name" > "./$name"; cat "./$name"; ls -d "./$name"'
  op 'mv "./$name" "./$name.moved"; cat "./$name.moved"; ls -d "./$name"'
done
name=$(printf '\377\376x')
op 'echo bytes > "$name"; for f in *x; do echo "$f" | od -c; done; cat "$name"; rm "$name"; ls ./*x'
op 'ls | sort | od -c | md5sum'

# Links
op "ln a hard; $show a hard; [ a -ef hard ] && echo same"
op 'echo through >> hard; cat a'
op 'ln a hard; ln missing h2; ln d hd; ln a no/such'
op "rm a; cat hard; $show hard; ln hard a; ln hard a3; $show a a3; rm a3; $show a"
op 'ln -s a soft; readlink soft; cat soft; echo more >> soft; tail -n 1 a'
op 'ln -s a soft; ln -s nowhere dangling; cat dangling; readlink dangling; echo made > dangling; cat nowhere'
op 'ln -s loop2 loop1; ln -s loop1 loop2; cat loop1; ls -l loop1 | sed "s/.* loop1/loop1/"'
op "ln -s d sd; ls sd; mkdir sd/via; ls d; rmdir sd; rm sd; ls d; ln -s ../escape up; cat up; $show up"
op "ln -s $(printf '%01000d' 0) longlink; readlink longlink | wc -c"
op 'ln -sf empty soft; readlink soft; ln -sfn d soft; readlink soft'
op 'ln -s /proc/nothing absolute; cat absolute; readlink absolute; readlink a'
op "for i in 1 2 3 4 5 6 7 8 9; do ln a hard\$i; done; $show a; rm hard?; $show a"
op "ln -s a sl; ln sl slh; $show sl slh; rm sl slh"

# Rename
op 'echo 1 > r1; echo 2 > r2; mv r1 r2; cat r2; ls r1; mv r1 r3'
op 'mkdir rd1 rd2; mv -T rd1 rd2; ls -d rd1 rd2; mkdir rd1; : > rd2/x; mv -T rd1 rd2; mv -T rd2 rd1; ls rd1'
op 'mv -T r2 rd1; mv -T rd1 r2; ls -d r2 rd1'
op 'mv rd1 rd1/inside; mkdir -p ra/b/c; mv ra ra/b/c'
op 'mv r2 rd1/; cat rd1/r2; mv rd1/r2 .; mv rd1 d/; ls d/rd1; mv d/rd1 rd9; ls rd9'
op 'echo x > t1; ln t1 t2; mv t1 t2; ls t1 t2'
op 'mv -n t2 a; ls t2; mv t2 a; cat a'
op 'ln -s t9 s1; mv s1 s2; readlink s2; echo f > t9; mv t9 s2; cat s2; [ -L s2 ]'

# Mode and times
for mode in 000 400 644 666 755 777 1755 2755 4755 6711 7777; do
  op "chmod $mode empty; $show empty; chmod $mode d; $dirs d"
done
op 'chmod 644 empty; chmod 755 d; chmod u+x,g-r,o=w empty; stat -c %a empty; chmod 700 missing'
op 'umask 077; : > masked; mkdir maskedd; stat -c %a masked maskedd'
op 'umask 000; : > open; mkdir opend; mkfifo openf; stat -c "%a %F" open opend openf'
for when in 200001010000.00 199912312359.59 197001010000.01 203801190314.08 201602291200.30; do
  op "touch -t $when empty d; stat -c '%n %Y %y %X' empty d; [ empty -nt a ] && echo newer"
done
op 'touch -d "2001-02-03 04:05:06" a; stat -c %y a; cp -p a preserved; stat -c %y preserved'
op 'touch -r a empty; stat -c %Y empty; touch -c missing; ls missing; touch empty; [ empty -nt a ] && echo newer'
op 'touch -h -d "2002-02-02 02:02:02" s2 absolute; stat -c "%n %Y" s2 absolute'
op 'touch -d "2003-03-03 03:03:03" d; : > d/new; [ d -nt a ] && echo changed; rm d/new'
op 'echo x > m; touch -d "2004-04-04 04:04:04" m; echo y >> m; [ m -nt a ] && echo changed'
op 'echo x > set; chmod 6755 set; stat -c %a set; echo y >> set; stat -c %a set'

# Special files
op "mkfifo fifo; mkfifo fifo; $show fifo; (echo through > fifo &) ; cat fifo"
op 'test -p fifo && echo pipe; test -f fifo || echo no file; test -d d && test -L soft && echo both'
op 'mv fifo fifo2; rm fifo2; ls fifo2'

# Programs that do many things
op 'mkdir src; for i in 1 2 3 4 5 6 7 8 9; do mkdir src/d$i; seq $i 500 > src/d$i/f; ln src/d$i/f src/h$i; ln -s d$i/f src/s$i; done; find src | wc -l'
op 'touch -t 200506070809.10 src/*/f src/d*; chmod 640 src/d3/f; chmod 555 src/d4'
op 'cp -a src dst; diff -r src dst && find dst -type f -exec stat -c "%n %a %s %h %Y" {} + | sort | md5sum'
op 'tar cf src.tar src; tar tf src.tar | sort | md5sum; mkdir x; tar xf src.tar -C x; diff -r src x/src; find x -type f -links +1 | wc -l'
op 'gzip -c src.tar > src.tgz; gunzip -c src.tgz | cmp - src.tar && echo whole; rm src.tar src.tgz'
op 'grep -rl 333 src | sort; find src -name "s*" -type l | sort | xargs -n 1 readlink'
op 'find src -newer a | wc -l; find src -perm 640; find src -size +1k | wc -l'
op 'find src | cpio -o -H newc 2> /dev/null | wc -c > /dev/null; du -a src | wc -l'
op 'cp -r src/d1 one; cp missing there; cp one two; cp a d; cat d/a; cp -l a linked; stat -c %h linked; rm -r one; ls one'
op 'mkdir rmme; cd rmme; mkdir -p a/b c/d; : > a/b/f; ln -s a s; cd ..; rm -r rmme; ls rmme; rm missing; rm -f missing'
op 'ls -ld d/../d/./e | cut -c 1-10; ls -A d; ls -F | sort | tail -n 5; readlink -f d/../soft | tail -c 3'
op 'shred -n 1 -u dd-1; ls dd-1; unlink dd-512; unlink dd-512; unlink d'
op 'for i in 1 2 3 4; do (for j in $(seq 1 50); do echo $i:$j >> parallel; done) & done; wait; sort parallel -o parallel; md5sum parallel'
op 'for i in 1 2 3 4; do (seq $i 20000 > par-$i) & done; wait; md5sum par-?'
op 'for i in 1 2 3 4; do (mkdir race 2> /dev/null && echo won) & done; wait; ls -d race'
op 'sync; sync -d a; sync -f a; cat a'
op 'df . | wc -l; stat -f -c %l .'

if [ -n "$shell" ]; then
  export as="su -s $shell nobody -c"
  op "chown 1234:4321 empty; $show empty; chown -h 5:6 s2 absolute; $show absolute; chgrp 77 d; $dirs d"
  op "echo x > own; chmod 6755 own; chown 1:1 own; $show own; chown 1 missing"
  op "mknod null c 1 3; mknod block b 7 99; stat -c '%n %F %t:%T' null block; rm null block"
  op "mkdir shared; chmod 1777 shared; \$as 'echo mine > shared/n; mkdir shared/nd; ln -s x shared/ns; mkfifo shared/nf'; cd shared; $show n ns nf; $dirs nd"
  op "echo r > shared/r; \$as 'rm shared/r; mv shared/r shared/q; echo x >> shared/r; cat shared/r; chmod 777 shared/r; touch -t 200001010000 shared/r'"
  op "chmod 600 shared/r; \$as 'cat shared/r; rm shared/n; ls private; cat private/x; echo x > private/x; mkdir d/nope'"
  op "mkdir grp; chgrp 65534 grp; chmod 2775 grp; \$as 'echo g > grp/g; mkdir grp/gd'; $dirs grp/g grp/gd; echo r > grp/r; $dirs grp/r"
  op "echo x > priv; chmod 6777 priv; \$as 'echo y >> priv'; $show priv; chmod 6777 priv; \$as ': > priv'; $show priv"
  op "chmod 6777 priv; chown 3:3 priv; $show priv; chmod 6777 priv; \$as 'truncate -s 7 priv'; $show priv"
  op "chown 65534 src/d1/f; \$as 'chmod 600 src/d1/f; echo mine >> src/d1/f; chown 0 src/d1/f; tail -n 1 src/d1/f'; $show src/d1/f"
fi

op 'find . | wc -l'
op 'find . -type f -exec md5sum {} + | sort | md5sum'
echo "$count operations"

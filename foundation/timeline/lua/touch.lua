#!lua flags=allow-cross-slot-keys
-- Give timelines that were read a new life. Common: ttl in seconds. Items: key. 1 done, 0 cold or being rebuilt.
-- A rebuild keeps its short life: should its builder die, the next reader starts another.
local answer = {}
local n = 0
for place = 3, #ARGV do
  local last = redis.pcall('LINDEX', ARGV[place], -1)
  n = n + 1
  if type(last) == 'table' then
    answer[n] = last
  elseif not last or string.byte(last, 1) == 33 then
    answer[n] = 0
  else
    answer[n] = redis.call('EXPIRE', ARGV[place], ARGV[2])
  end
end
return answer

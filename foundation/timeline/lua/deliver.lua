#!lua flags=allow-cross-slot-keys
-- Insert each post into the timelines of many owners (rule 1). Common: capacity, slack, what stands before an owner in
-- a key, the least ttl in seconds of a reader who is present (0: whoever has a timeline gets the post). Then pairs: id,
-- its owners (decimal text, anything else between them).
-- Absentees are skipped by unlinking their timelines (rule 2); one that is being rebuilt has somebody waiting for it.
-- The answer: how many were cold, how many were unlinked, then pairs id, owner of those that failed.
local before, present = ARGV[4], tonumber(ARGV[5])

local function absent(key)
  return redis.call('TTL', key) < present and string.byte(redis.call('LINDEX', key, -1), 1) ~= 33
end

local answer = {0, 0}
for place = 6, #ARGV, 2 do
  local id = ARGV[place]
  for owner in string.gmatch(ARGV[place + 1], '%d+') do
    local key = before .. owner .. '}'
    local head = redis.pcall('LINDEX', key, 0)
    if not head then
      answer[1] = answer[1] + 1
    elseif type(head) == 'table' then
      answer[#answer + 1] = id
      answer[#answer + 1] = owner
    elseif present > 0 and absent(key) then
      redis.call('UNLINK', key)
      answer[2] = answer[2] + 1
    else
      insert(key, id, head)
    end
  end
end
return answer
